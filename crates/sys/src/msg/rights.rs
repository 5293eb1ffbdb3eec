//! Descriptors that travel with bytes on a UNIX socket: `SCM_RIGHTS`, unix(7).
//!
//! On a stream they belong to the first byte that they were sent with. One call returns this byte,
//! perhaps bytes that were sent before it, and none of those sent after the message. So a reader
//! that asks for the head of a message alone has the message's descriptors with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Most descriptors of one message (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

const SPACE: usize = cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Receives bytes without waiting, and up to `N` descriptors with them, which are closed on exec
/// and replace what is in `descriptors`. `Ok(0)` is the end of a stream.
///
/// `InvalidData` if there were more, or the process can't have so many: then all are closed, and
/// the bytes are lost.
pub fn receive_with<const N: usize>(
    fd: BorrowedFd<'_>,
    into: &mut [u8],
    descriptors: &mut ArrayVec<OwnedFd, N>,
) -> io::Result<usize> {
    const { assert!(N <= MAX_DESCRIPTORS) };
    descriptors.clear();
    let mut space = [MaybeUninit::uninit(); SPACE];
    // No more room than for these: the kernel itself then discards the others, and this process
    // never has them.
    let mut control = RecvAncillaryBuffer::new(&mut space[..cmsg_space!(ScmRights(N))]);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(fd, &mut [IoSliceMut::new(into)], &mut control, flags)?;
    let mut surplus = received.flags.contains(ReturnFlags::CTRUNC);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            // Room is rounded up, so there may be one more.
            came.for_each(|fd| surplus |= descriptors.try_push(fd).is_err());
        }
    }
    if surplus {
        descriptors.clear();
        let text = format!("more than {N} descriptors, no room for them, or no right to them");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(received.bytes)
}

/// Sends bytes, and `descriptors` with the first of them, without waiting and without SIGPIPE.
/// Returns how many bytes the kernel took: what is left is to be sent without descriptors.
///
/// `InvalidInput` without any byte, as a stream would lose the descriptors, and with more than
/// [`MAX_DESCRIPTORS`].
pub fn send_with(fd: BorrowedFd<'_>, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors));
    if data.is_empty() || !fits {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(rustix::net::sendmsg(fd, &[IoSlice::new(data)], &mut control, flags)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use rustix::fs::{fstat, memfd_create};
    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// Most that the receiver of these tests takes.
    const MOST: usize = 8;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().expect("sockets")
    }

    fn files(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| memfd_create("file", rustix::fs::MemfdFlags::empty()).expect("a file")).collect()
    }

    fn send(fd: &UnixStream, data: &[u8], files: &[OwnedFd]) {
        let files: Vec<_> = files.iter().map(OwnedFd::as_fd).collect();
        assert_eq!(send_with(fd.as_fd(), data, &files).expect("sent"), data.len());
    }

    fn inodes(files: &[OwnedFd]) -> Vec<u64> {
        files.iter().map(|file| fstat(file).expect("a file").st_ino).collect()
    }

    /// Receives up to `len` bytes.
    fn receive<const N: usize>(fd: &UnixStream, len: usize) -> io::Result<(Vec<u8>, ArrayVec<OwnedFd, N>)> {
        let (mut bytes, mut files) = (vec![0; len], ArrayVec::new());
        let len = receive_with(fd.as_fd(), &mut bytes, &mut files)?;
        bytes.truncate(len);
        Ok((bytes, files))
    }

    /// How many descriptors refer to the file of `file`, in this process.
    fn references(file: &OwnedFd) -> usize {
        let inode = fstat(file).expect("a file").st_ino;
        let all = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
        all.filter(|entry| {
            use std::os::unix::fs::MetadataExt as _;
            std::fs::metadata(entry.path()).is_ok_and(|file| file.ino() == inode)
        })
        .count()
    }

    #[test]
    fn as_many_as_there_are() {
        for count in [0, 1, 2, 7, MOST] {
            let ((a, b), sent) = (pair(), files(count));
            send(&a, b"bytes", &sent);
            let (bytes, received) = receive::<MOST>(&b, 100).expect("a message");
            assert_eq!((bytes.as_slice(), inodes(&received)), (b"bytes".as_slice(), inodes(&sent)));
            assert!(received.iter().all(|fd| fcntl_getfd(fd).expect("open") == FdFlags::CLOEXEC));
        }
    }

    /// Those of a message before are gone once there is another.
    #[test]
    fn nothing_is_left_of_the_last_message() {
        let ((a, b), sent) = (pair(), files(1));
        let mut received = ArrayVec::<_, MOST>::new();
        send(&a, b"1", &sent);
        send(&a, b"2", &[]);
        for expected in [1, 0] {
            assert_eq!(receive_with(b.as_fd(), &mut [0], &mut received).expect("a byte"), 1);
            assert_eq!(received.len(), expected);
        }
        assert_eq!(references(&sent[0]), 1);
    }

    #[test]
    fn more_than_are_wanted() {
        // Of odd and of even numbers the kernel's room differs.
        fn check<const N: usize>() {
            for count in [N + 1, N + 2, MAX_DESCRIPTORS] {
                let ((a, b), file) = (pair(), files(1));
                let sent = vec![file[0].as_fd(); count];
                assert_eq!(send_with(a.as_fd(), b"bytes", &sent).expect("sent"), 5);
                let error = receive::<N>(&b, 100).expect_err("too many");
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{count} instead of {N}");
                assert_eq!(references(&file[0]), 1, "{count} instead of {N}");
                // The stream goes on.
                send(&a, b"more", &[]);
                assert_eq!(receive::<N>(&b, 100).expect("a message").0, b"more");
            }
        }
        check::<0>();
        check::<1>();
        check::<7>();
        check::<8>();
    }

    #[test]
    fn more_than_the_kernel_takes() {
        let ((a, _b), file) = (pair(), files(1));
        let sent = vec![file[0].as_fd(); MAX_DESCRIPTORS + 1];
        let error = send_with(a.as_fd(), b"bytes", &sent).expect_err("too many");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    /// A stream has no borders but these: what comes before may be read along, what comes behind is
    /// not.
    #[test]
    fn in_the_middle_of_a_stream() {
        let ((mut a, b), sent) = (pair(), files(2));
        a.write_all(b"before").expect("written");
        send(&a, b"with them", &sent);
        a.write_all(b"behind").expect("written");
        let (bytes, received) = receive::<MOST>(&b, 100).expect("bytes");
        assert_eq!((bytes.as_slice(), inodes(&received)), (b"beforewith them".as_slice(), inodes(&sent)));
        let (bytes, received) = receive::<MOST>(&b, 100).expect("bytes");
        assert_eq!((bytes.as_slice(), received.len()), (b"behind".as_slice(), 0));
    }

    /// They come with the first byte, though the message is read in pieces.
    #[test]
    fn of_a_message_in_pieces() {
        let ((a, b), sent) = (pair(), files(3));
        send(&a, b"head and body", &sent);
        let (head, received) = receive::<MOST>(&b, 4).expect("a head");
        assert_eq!((head.as_slice(), inodes(&received)), (b"head".as_slice(), inodes(&sent)));
        let (body, received) = receive::<MOST>(&b, 100).expect("a body");
        assert_eq!((body.as_slice(), received.len()), (b" and body".as_slice(), 0));
    }

    /// A stream would lose them, so they are not sent. Where messages have borders they arrive, and
    /// are no end.
    #[test]
    fn without_a_byte() {
        let ((a, b), sent) = (pair(), files(1));
        let error = send_with(a.as_fd(), &[], &[sent[0].as_fd()]).expect_err("no byte");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        b.set_nonblocking(true).expect("non-blocking");
        assert_eq!((&b).read(&mut [0]).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);

        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("sockets");
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let borrowed = [sent[0].as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
        rustix::net::sendmsg(&a, &[], &mut control, SendFlags::empty()).expect("sent");
        let mut received = ArrayVec::<_, MOST>::new();
        assert_eq!(receive_with(b.as_fd(), &mut [0; 4], &mut received).expect("a message"), 0);
        assert_eq!(inodes(&received), inodes(&sent));
    }

    #[test]
    fn nothing_and_the_end() {
        let (a, b) = pair();
        assert_eq!(receive::<MOST>(&b, 4).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(receive::<MOST>(&b, 4).expect("the end").0, b"");
    }
}
