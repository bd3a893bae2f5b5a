// Command disk serves a disk that notes what is written to it, so that a test can tell
// what a loss of power would have left, and that fails, hangs or is slow when it is told.
//
//	disk DIR IMAGE [LOG]
//
// It mounts a filesystem at DIR with one file, DIR/disk, whose content is IMAGE's. Whatever
// is written there goes to IMAGE and, before the writer is told that it is done, to LOG.
// It prints "ready", and ends when its standard input does. Each line there is an order,
// which it answers with a line once every request that comes is treated so:
//
//	fail        reads, writes and flushes get EIO
//	hang        they are not answered until the next order
//	slow 50ms   each is answered so much later
//	well        all is as it was at first
//
// # What it owns
//
// The mount at DIR. LOG is a sequence of records of 17 bytes and the data: one byte 'w' or
// 's' (a flush: all before it has reached the disk), the offset and the length of the data
// as 64 bits each, little endian.
//
// # Invariants
//
//   - The log has the writes in the order in which they reached the file, and a flush after
//     all that it waited for. A loop device upon the file turns barriers into flushes.
//
// # Why not dm-log-writes, dm-flakey and dm-delay
//
// They do the same, but few kernels have them. It is a module of its own, so that the
// library for FUSE is no dependency of berth's.
package main
