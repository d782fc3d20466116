//! What must hold of every file of users.

use super::htpasswd;

/// Lines of an htpasswd file: each has a name and a hash of bcrypt's length, and what is read
/// is written again.
pub(crate) fn htpasswd(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines = text.lines().count();
    match htpasswd::parse(text) {
        Ok(users) => {
            let mut written = String::new();
            for (name, hash) in &users {
                assert!(!name.is_empty() && !name.contains(':') && hash.len() == 60);
                written.push_str(&format!("{name}:{hash}\n"));
            }
            // A name may begin like a comment only where the line did not.
            assert_eq!(htpasswd::parse(&written), Ok(users));
        }
        Err(line) => assert!((1..=lines).contains(&line)),
    }
}
