//! How many bytes must have come before a socket counts as readable (`SO_RCVLOWAT`, socket(7), tcp(7)).
//!
//! No crate that Darter stands on has this option, so this module has the only unsafe code.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// A socket counts as readable when so many bytes have come, or its end.
///
/// # Errors
/// When the socket is none.
#[expect(unsafe_code, reason = "a system call that no crate of the tree makes")]
pub(crate) fn set(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads `length`
    // bytes at a pointer to a value of that size, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
