//! The laboratory's only unsafe code.
//!
//! Owns what runs between fork and exec, and the one socket address and the one request that no safe crate builds.
#![allow(
    unsafe_code,
    reason = "pre_exec and sockaddr_ll have no safe form; each use says why it is sound"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// The program will start inside the network namespace behind `netns`.
pub(super) fn in_netns(command: &mut Command, netns: OwnedFd) {
    let join = move || Ok(setns(&netns, CloneFlags::CLONE_NEWNET)?);
    // SAFETY: between fork and exec the closure makes one system call and touches neither the
    // heap nor a lock, so a thread that held one at the time of the fork cannot block it.
    unsafe { command.pre_exec(join) };
}

/// The program will start inside a network namespace of its own.
pub(super) fn in_new_netns(command: &mut Command) {
    let leave = || Ok(unshare(CloneFlags::CLONE_NEWNET)?);
    // SAFETY: as in `in_netns`, one system call and nothing else.
    unsafe { command.pre_exec(leave) };
}

/// The program will be killed when the thread that starts it ends.
pub(super) fn die_with_starter(command: &mut Command) {
    let ask = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: as in `in_netns`, one system call and nothing else.
    unsafe { command.pre_exec(ask) };
}

/// The program will find this descriptor under the number 3, as a service manager passes it; or nothing there.
pub fn pass(command: &mut Command, passed: Option<OwnedFd>) {
    const NUMBER: RawFd = 3;
    let place = move || {
        // SAFETY: plain system calls on descriptors of a process that is about to become another program: what had the
        // number before is not used any more.
        let done = unsafe {
            match &passed {
                // Onto itself dup2 would leave the flag that closes it.
                Some(fd) if fd.as_raw_fd() == NUMBER => libc::fcntl(NUMBER, libc::F_SETFD, 0),
                Some(fd) => libc::dup2(fd.as_raw_fd(), NUMBER),
                None => libc::close(NUMBER).min(0),
            }
        };
        match done {
            -1 if passed.is_some() => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: as in `in_netns`, one system call and nothing else.
    unsafe { command.pre_exec(place) };
}

/// Address of the link with this index for a packet socket that takes every protocol.
pub(super) fn link_address(index: u32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a plain C struct of integers, valid for every bit pattern, and it is
    // smaller than sockaddr_storage, whose zeroed memory we own here.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL)
        .map_err(io::Error::other)?
        .to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage holds an initialised sockaddr_ll of exactly this length.
    Ok(unsafe { SockAddr::new(storage, length) })
}

/// Checksums of what this link sends are not left to it (`ETHTOOL_STXCSUM`, linux/ethtool.h).
pub(super) fn tx_checksums_off(link: &str) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = Value {
        command: ETHTOOL_STXCSUM,
        data: 0,
    };
    // SAFETY: ifreq is a plain C struct, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (at, byte) in request.ifr_name[..room].iter_mut().zip(link.bytes()) {
        *at = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads and writes the request and the value behind it, both of which outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
