#!/bin/bash
# The start-up script of a container of Xinference, as people mount it: a server in the background,
# a loop until it answers, one launch per model, and a wait for the server's end. NAME is
# `xinference`, or what replaces it.
NAME=$1 PORT=$2

$NAME-local -H 127.0.0.1 &

while true; do
  if curl -s "http://localhost:$PORT" > /dev/null; then
    break
  else
    sleep 1
  fi
done

$NAME launch --model-name bge-m3 --model-type embedding &
$NAME launch --model-name jina-reranker-v2 --model-type rerank &

wait
