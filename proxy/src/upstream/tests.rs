//! The registry client against real and faulty servers.
