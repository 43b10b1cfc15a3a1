// socket_call.h - sending and receiving on sockets, for fibers.
//
// Owns:        nothing; the four ways that all calls on sockets come down to.
// Keeps true:  Linux's rules for blocking sockets: partial transfers, MSG_WAITALL, SO_RCVTIMEO, EINTR after nothing was
//              moved, SIGPIPE once.  Results are -errno or bytes.
// Called by:   socket.cc and file.cc (read and write on sockets), on a fiber.
#pragma once

#include <sys/socket.h>

#include <cstddef>

namespace weft {

long receive(int fd, void* buffer, size_t size, int flags, sockaddr* from, socklen_t* length);
long receive_message(int fd, msghdr* message, int flags);
long send_bytes(int fd, const void* data, size_t size, int flags, const sockaddr* to, socklen_t length);
long send_message(int fd, const msghdr* message, int flags);

}  // namespace weft
