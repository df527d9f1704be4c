//! What the process does about memory that models have left behind.

/// Gives pages that no allocation uses back to the system. Freed blocks of a model lie between
/// others, and the allocator of glibc keeps them for the next model unless it is told.
pub fn release_unused_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it may be called at any time and from any thread; it touches only memory that
        // is free.
        unsafe { malloc_trim(0) };
    }
}
