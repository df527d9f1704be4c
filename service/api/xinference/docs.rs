//! Descriptions of the management routes for `/openapi.json`.

use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema, path::Operation},
};

use super::{
    cache::{CacheFiles, CacheList, Done},
    cluster::{
        ClusterAuth, ClusterVersion, Families, Login, LoginBody, Node, Status, Supervisor,
        VllmModels, Worker,
    },
    engines::EngineOption,
    instances::{AbortBody, Aborted, Added, Instance, Progress, Remaining, Replica, ReplicaBody},
    launch::{LaunchAnswer, LaunchBody},
    pieces::{Pieces, PiecesBody},
    records::CatalogRecord,
    registrations::{RegisterBody, Registration},
};
use crate::api::docs::{add, answered, answered_list, answered_null, answered_text, posting};

/// Every type that the descriptions name.
pub fn add_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    fn all<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        add::<T>(schemas);
    }
    for add in [
        all::<LaunchBody>,
        all::<LaunchAnswer>,
        all::<Instance>,
        all::<Replica>,
        all::<Progress>,
        all::<ReplicaBody>,
        all::<Added>,
        all::<Remaining>,
        all::<AbortBody>,
        all::<Aborted>,
        all::<PiecesBody>,
        all::<Pieces>,
        all::<Registration>,
        all::<CatalogRecord>,
        all::<RegisterBody>,
        all::<EngineOption>,
        all::<CacheList>,
        all::<CacheFiles>,
        all::<Done>,
        all::<ClusterAuth>,
        all::<LoginBody>,
        all::<Login>,
        all::<Status>,
        all::<Node>,
        all::<ClusterVersion>,
        all::<Families>,
        all::<VllmModels>,
        all::<Worker>,
        all::<Supervisor>,
    ] {
        add(schemas);
    }
}

macro_rules! describe {
    ($($name:ident: $operation:expr;)+) => {
        $(
            #[doc = concat!("The description of the routes of `", stringify!($name), "`.")]
            pub fn $name() -> Operation {
                $operation
            }
        )+
    };
}

describe! {
    launch: posting::<LaunchBody>(
        answered::<LaunchAnswer>("Launch a model; `?wait_ready=false` answers at once"));
    terminate: answered_null("End a model");
    instances: answered_list::<Instance>("Models that are served or loading");
    progress: answered::<Progress>("How far a launch is");
    cancel: answered_null("Give up a launch");
    replicas: answered_list::<Replica>("The replicas of a model");
    add_replicas: posting::<ReplicaBody>(answered::<Added>("More replicas"));
    end_replica: answered::<Remaining>("One replica less");
    events: answered_list::<String>("Events of a model; always empty");
    abort: posting::<AbortBody>(answered::<Aborted>("Abort a request; there is none to abort"));
    pieces: posting::<PiecesBody>(answered::<Pieces>("Token ids to tokens"));
    registrations: answered_list::<Registration>("The catalogue; `?detailed=true` tells more");
    registration: answered::<CatalogRecord>("One model of the catalogue");
    register: posting::<RegisterBody>(answered_null("Add a model to the catalogue"));
    unregister: answered_null("Take an own model out of the catalogue");
    versions: answered_list::<String>("Versions of a model; always empty");
    engines: answered::<EngineOption>("Lists of options, by the engine that runs the model");
    cached: answered::<CacheList>("Files of models on this machine");
    cached_files: answered::<CacheFiles>("What a removal would remove");
    remove_cached: answered::<Done>("Remove files of a model");
    auth: answered::<ClusterAuth>("Whether keys are required");
    token: posting::<LoginBody>(answered::<Login>("Log in with a key as the password"));
    status: answered::<Status>("Uptime, processor and memory");
    address: answered_text("The address of this server, a JSON string");
    info: answered_list::<Node>("Supervisor and worker, both this server");
    version: answered::<ClusterVersion>("The version of this program");
    devices: answered_text("How many GPUs models can run on, a JSON number");
    ui_config: answered_text("An empty object");
    workers: answered_list::<Worker>("The one worker");
    supervisor: answered::<Supervisor>("The one supervisor");
    stop: answered::<Done>("Finish what is inside and end the server");
    prompts: answered_text("An empty object");
    families: answered::<Families>("Model families by ability");
    vllm_supported: answered::<VllmModels>("Model families that vLLM would run");
}
