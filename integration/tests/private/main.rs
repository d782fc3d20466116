//! Private images of a real registry behind TLS and tokens: who may read stays who may read,
//! whatever this host has already.

mod company;
mod cost;
mod own;
mod readers;
mod taken;
mod tokens;
