//! Time is an argument: nothing here waits.

use super::*;
use crate::database::tests::{Place, on_both};

const START: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn at(seconds: i64) -> OffsetDateTime {
    START + time::Duration::seconds(seconds)
}

fn since(seconds: i64) -> Duration {
    Duration::from_millis(millis(at(seconds)) as u64)
}

async fn open(place: &Place) -> Accounts {
    Accounts::new(place.open().await)
}

fn basic(user: &str, password: &str) -> Credential {
    let text = BASE64_STANDARD.encode(format!("{user}:{password}"));
    Credential::of_header(&format!("Basic {text}")).unwrap()
}

#[tokio::test]
async fn the_administrator_is_made_once() {
    on_both("the_administrator_is_made_once", async |place| {
        let accounts = open(place).await;
        let password = accounts.ensure_root(None, at(0)).await.unwrap().unwrap();
        assert_eq!(password.len(), 40);
        assert_eq!(accounts.ensure_root(None, at(0)).await.unwrap(), None);
        let root = accounts.sign_in(basic(ROOT, &password), HERE, at(1)).await;
        assert_eq!(root.unwrap().role, Role::Root);
        for (user, wrong) in [
            (ROOT, "root"),
            ("nobody", password.as_str()),
            ("' OR 1=1 --", "x"),
        ] {
            let refused = accounts.sign_in(basic(user, wrong), HERE, at(1)).await;
            assert!(matches!(refused, Err(SignInError::Wrong)), "{user}");
        }
        let kept: String = sqlx::query_scalar("SELECT password FROM users")
            .fetch_one(accounts.database.pool())
            .await
            .unwrap();
        assert!(kept.starts_with("$argon2id$"), "{kept}");
    })
    .await;
    let place = Place::sqlite();
    let accounts = open(&place).await;
    let given = accounts.ensure_root(Some("given".to_owned()), at(0)).await;
    assert_eq!(given.unwrap(), None, "who gave it knows it");
    assert!(
        accounts
            .sign_in(basic(ROOT, "given"), HERE, at(1))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn tokens_are_hashed_scoped_expire_and_are_revoked() {
    on_both(
        "tokens_are_hashed_scoped_expire_and_are_revoked",
        async |place| {
            let accounts = open(place).await;
            let wish = NewToken {
                name: "<b>harbor</b>".to_owned(),
                role: Role::Operator,
                expires_in_seconds: Some(60),
            };
            let (id, token) = accounts
                .new_token(&wish, ROOT, at(0))
                .await
                .unwrap()
                .unwrap();
            let kept: String = sqlx::query_scalar("SELECT hash FROM tokens")
                .fetch_one(accounts.database.pool())
                .await
                .unwrap();
            assert!(!kept.contains(&token[PREFIX_LENGTH..]) && kept.len() == 64);
            let sign_in = async |header: String, second| {
                let credential = Credential::of_header(&header).unwrap();
                accounts.sign_in(credential, HERE, at(second)).await
            };
            for header in [format!("Bearer {token}"), token.clone()] {
                let caller = sign_in(header, 59).await.unwrap();
                assert_eq!(
                    (caller.role, caller.name.as_str()),
                    (Role::Operator, "token <b>harbor</b>")
                );
            }
            let by_password = accounts
                .sign_in(basic("anybody", &token), HERE, at(59))
                .await;
            assert_eq!(by_password.unwrap().role, Role::Operator);
            let expired = sign_in(format!("Bearer {token}"), 60).await;
            assert!(matches!(expired, Err(SignInError::Wrong)));
            assert_eq!(
                accounts.tokens(i64::MAX, 1).await.unwrap()[0].expires_at,
                Some(at(60))
            );

            assert!(accounts.revoke(id).await.unwrap());
            assert!(!accounts.revoke(id).await.unwrap());
            assert!(sign_in(format!("Bearer {token}"), 1).await.is_err());
        },
    )
    .await;
}

const PREFIX_LENGTH: usize = "darter_".len();

#[tokio::test]
async fn nobody_guesses_for_long() {
    let place = Place::sqlite();
    let accounts = open(&place).await;
    let guess = async |from: IpAddr, second| {
        let guessed = accounts.sign_in(basic(ROOT, "guess"), from, at(second));
        guessed.await.unwrap_err()
    };
    for _ in 0..10 {
        assert!(matches!(guess(HERE, 0).await, SignInError::Wrong));
    }
    assert!(matches!(guess(HERE, 59).await, SignInError::TooMany));
    let wish = NewToken {
        name: "x".to_owned(),
        role: Role::Guest,
        expires_in_seconds: None,
    };
    let (_, token) = accounts
        .new_token(&wish, ROOT, at(0))
        .await
        .unwrap()
        .unwrap();
    let token = Credential::Token(token);
    assert!(
        accounts.sign_in(token, HERE, at(59)).await.is_ok(),
        "a token is no guess"
    );
    let elsewhere = IpAddr::from([10, 0, 0, 1]);
    assert!(matches!(guess(elsewhere, 59).await, SignInError::Wrong));
    assert!(matches!(guess(HERE, 60).await, SignInError::Wrong));
}

#[tokio::test]
async fn guesses_at_the_same_time_count_before_they_are_looked_at() {
    let place = Place::sqlite();
    let accounts = open(&place).await;
    let guesses = (0..30).map(|_| accounts.sign_in(basic(ROOT, "guess"), HERE, at(0)));
    let ends = futures::future::join_all(guesses).await;
    let looked_at = |end: &&Result<Caller, SignInError>| matches!(end, Err(SignInError::Wrong));
    let looked_at = ends.iter().filter(looked_at).count();
    assert!((1..=10).contains(&looked_at), "{looked_at}");
}

#[tokio::test]
async fn who_gets_no_turn_is_told_so_and_has_not_failed() {
    let place = Place::sqlite();
    let accounts = open(&place).await;
    let given = accounts.ensure_root(Some("given".to_owned()), at(0)).await;
    given.unwrap();
    let hashes = Arc::clone(&accounts.hashes);
    let turns = hashes.acquire_many_owned(HASHES as u32).await.unwrap();
    let asked = (0..10).map(|_| accounts.sign_in(basic(ROOT, "given"), HERE, at(0)));
    for end in futures::future::join_all(asked).await {
        assert!(matches!(end, Err(SignInError::Busy)), "{end:?}");
    }
    drop(turns);
    for _ in 0..11 {
        let root = accounts.sign_in(basic(ROOT, "given"), HERE, at(0)).await;
        assert!(root.is_ok(), "{root:?}");
    }
}

#[tokio::test]
async fn writes_are_noted_and_forgotten_in_time() {
    on_both("writes_are_noted_and_forgotten_in_time", async |place| {
        let accounts = open(place).await;
        for (second, status) in [(0, 201), (100, 403)] {
            let client = "10.0.0.1".to_owned();
            let note = accounts.note("root", client, "POST", "/api/v1/jobs", status, at(second));
            note.await;
        }
        let audit = accounts.audit(i64::MAX, 10).await.unwrap();
        assert_eq!(
            audit.iter().map(|entry| entry.status).collect::<Vec<_>>(),
            [403, 201]
        );
        assert_eq!((audit[1].at, audit[1].who.as_str()), (at(0), "root"));
        accounts.sweep(at(90 * 24 * 3600 + 50)).await.unwrap();
        assert_eq!(accounts.audit(i64::MAX, 10).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn strangers_do_not_fill_the_audit() {
    on_both("strangers_do_not_fill_the_audit", async |place| {
        let accounts = open(place).await;
        let note = async |who: &str, second| {
            let client = "10.0.0.1".to_owned();
            let note = accounts.note(who, client, "POST", "/api/v1/jobs", 401, at(second));
            note.await;
        };
        for second in 0..110 {
            note("", second).await;
        }
        note("token ci", 110).await;
        note("", 2 * 3600).await;
        let audit = accounts.audit(i64::MAX, 500).await.unwrap();
        assert_eq!(audit.len(), 102);
        assert_eq!(audit[1].who, "token ci");
    })
    .await;
}

#[tokio::test]
async fn a_password_is_changed_and_found_again() {
    on_both("a_password_is_changed_and_found_again", async |place| {
        let accounts = open(place).await;
        let first = accounts.ensure_root(None, at(0)).await.unwrap().unwrap();
        let changed = accounts.set_password(ROOT, "another of root".to_owned());
        assert!(changed.await.unwrap());
        let nobody = accounts.set_password("nobody", "another of root".to_owned());
        assert!(!nobody.await.unwrap());
        let is_in = async |password: &str| {
            let signed = accounts.sign_in(basic(ROOT, password), HERE, at(1));
            signed.await.is_ok()
        };
        assert!(!is_in(&first).await);
        assert!(is_in("another of root").await);
        let made_up = accounts.reset_root(None, at(2)).await.unwrap().unwrap();
        assert!(is_in(&made_up).await && !is_in("another of root").await);
    })
    .await;
}

#[tokio::test]
async fn who_hangs_up_keeps_a_turn_until_the_work_is_done() {
    let place = Place::sqlite();
    let accounts = open(&place).await;
    for _ in 0..3 {
        let mut guess = Box::pin(accounts.sign_in(basic(ROOT, "guess"), HERE, at(0)));
        let begun = async {
            while accounts.hashes.available_permits() == HASHES {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut guess => {}
            () = begun => drop(guess),
        }
        // A turn that was lost with its request would never come back.
        let all = accounts.hashes.acquire_many(HASHES as u32);
        let all = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(all.is_ok_and(|all| all.is_ok()));
    }
    let more = (0..10).filter(|_| accounts.attempts.begin(HERE, since(0)));
    assert_eq!(more.count(), 7, "each counted, also who hung up");
}

#[tokio::test]
async fn a_copy_that_was_made_while_it_runs_is_a_database() {
    let place = Place::sqlite();
    let accounts = open(&place).await;
    let given = accounts.ensure_root(Some("given".to_owned()), at(0)).await;
    given.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("manager.db");
    // As the README has it.
    let backup = format!("VACUUM INTO '{}'", copy.display());
    let pool = accounts.database.pool();
    let done = sqlx::query(sqlx::AssertSqlSafe(backup)).execute(pool).await;
    done.unwrap();
    let late = accounts.set_password(ROOT, "after the backup".to_owned());
    assert!(late.await.unwrap());
    let metrics = crate::metrics::Metrics::default();
    let restored = Database::open(None, dir.path(), metrics).await.unwrap();
    let restored = Accounts::new(restored);
    let root = restored.sign_in(basic(ROOT, "given"), HERE, at(1)).await;
    assert!(root.is_ok(), "{root:?}");
}
