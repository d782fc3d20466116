//! Whether colour is wanted.

use std::io::IsTerminal;

/// On a terminal, unless `NO_COLOR` is set. <https://no-color.org>
pub(crate) fn is_wanted(stream: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !unwanted
}
