//! The priority of the calling thread, by which the operating system takes the cores from bulk
//! work when a query comes.

/// How much nicer than usual a thread becomes: enough that the scheduler of Linux gives ten times
/// as much to others that want the core, too little to starve beside them.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Lowers the priority of the calling thread, and of threads that it starts, for good. Where the
/// system knows no such thing, or refuses, the thread stays as it is and is only less polite.
pub fn lower() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpriority_process, setpriority_process};
        let usual = getpriority_process(None).unwrap_or(0);
        // The system takes what is beyond its least priority for that.
        if let Err(error) = setpriority_process(None, usual + NICENESS) {
            tracing::debug!(%error, "a worker keeps the usual priority");
        }
    }
}
