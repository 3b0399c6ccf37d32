//! The tests of the whole program: the real binary, real sockets.

mod layers;
