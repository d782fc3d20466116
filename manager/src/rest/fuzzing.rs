//! What must hold of everything that is posted to a manager.

use std::time::Duration;

use darter_api::{Repository, configuration::Configuration, preheat, wire::v1};

use super::{hooks, oapi};
use crate::{
    jobs::{Image, Request, Secret, Subject, Wish},
    pushes::{Push, PushRule, wished},
    settings::Set,
};

/// Notifications and webhooks of registries, Harbor's preheats and this manager's own,
/// settings, images as people write them; the first byte says which. What is taken is what
/// schedulers and hosts take.
pub fn posted(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 6 {
        0 => {
            if let Ok((pushes, asked)) = hooks::notified(rest) {
                check_pushes(&pushes, asked);
            }
        }
        1 => {
            if let Ok(pushes) = hooks::hooked(rest) {
                check_pushes(&pushes, true);
            }
        }
        2 => {
            let asked: Option<oapi::Asked> = serde_json::from_slice(rest).ok();
            if let Some(Ok(request)) = asked.map(oapi::Asked::request) {
                check_request(request);
            }
        }
        3 => {
            if let Ok(request) = serde_json::from_slice(rest) {
                check_request(request);
            }
        }
        4 => {
            if let Ok(set) = serde_json::from_slice::<Set>(rest) {
                let written = serde_json::to_string(&set).expect("numbers are text");
                assert_eq!(serde_json::from_str(&written).ok().as_ref(), Some(&set));
                check_set(set);
            }
        }
        _ => {
            let text = std::str::from_utf8(rest).unwrap_or_default();
            for image in [Image::parse(text), Image::parse_url(text)]
                .into_iter()
                .flatten()
            {
                check_image(&image);
                let url = image.url_of(&image.reference, true);
                assert_eq!(Image::parse_url(&url), Ok(image));
            }
        }
    }
}

/// What is taken for all is what each node takes.
fn check_set(set: Set) {
    if set.check().is_err() {
        return;
    }
    for peer in [set.peers, set.seeds] {
        let configuration = Configuration {
            peer,
            scheduler: set.schedulers.clone(),
            ..Configuration::default()
        };
        let sent = v1::Configuration::from(&configuration);
        assert_eq!(sent.try_into(), Ok(configuration));
    }
}

fn check_pushes(pushes: &[Push], asked: bool) {
    assert!(pushes.len() <= hooks::MOST_EVENTS);
    let all = [PushRule::default()];
    for push in pushes {
        if let Some(Ok(wish)) = wished(&all, push, asked) {
            check_wish(&wish, &Secret::default());
        }
    }
}

fn check_request(request: Request) {
    let secret = request.secret();
    if let (Ok(secret), Ok(wish)) = (secret, request.wish()) {
        check_wish(&wish, &secret);
    }
}

fn check_wish(wish: &Wish, secret: &Secret) {
    if let Subject::Image(image) = &wish.subject {
        check_image(image);
    }
    let written = serde_json::to_string(wish).expect("it is kept as text");
    assert_eq!(serde_json::from_str(&written).ok().as_ref(), Some(wish));
    let request = wish.request(secret, Duration::from_secs(1));
    let taken = preheat::Subject::try_from((request.image, request.files));
    assert!(taken.is_ok(), "hosts don't take {taken:?}");
    let shown = secret.reveal().filter(|shown| shown.len() > 12);
    assert!(shown.is_none_or(|shown| !format!("{secret:?}").contains(shown)));
}

fn check_image(image: &Image) {
    assert!(image.repository.parse::<Repository>().is_ok());
    assert!(image.reference().is_ok());
    assert!(!image.registry.is_empty() && !image.registry.contains(['/', '@', '?', '#', '%']));
}
