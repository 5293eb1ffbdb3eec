//! Tables of command lines and what they must mean.
