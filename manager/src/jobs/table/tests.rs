//! Time is an argument: nothing here waits.

use super::*;
use crate::{
    database::tests::{Place, on_both},
    jobs::Request,
};

const START: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

fn at(seconds: i64) -> OffsetDateTime {
    START + time::Duration::seconds(seconds)
}

fn wish(image: &str) -> Wish {
    let image = Some(image.to_owned());
    let request = Request {
        image,
        ..Request::default()
    };
    request.wish().unwrap()
}

fn secret() -> Secret {
    Secret::new("Bearer secret".to_owned())
}

async fn open(place: &Place) -> Jobs {
    Jobs::new(place.open().await)
}

async fn create(jobs: &Jobs, second: i64) -> i64 {
    jobs.create(&wish("app:1"), &secret(), "root", at(second))
        .await
        .unwrap()
}

async fn state_of(jobs: &Jobs, id: i64) -> State {
    jobs.get(id).await.unwrap().unwrap().state
}

/// What the database itself has of a job's secret.
async fn kept_secret(jobs: &Jobs, id: i64) -> String {
    let query = sqlx::query_scalar("SELECT secret FROM jobs WHERE id = $1").bind(id);
    query.fetch_one(jobs.database.pool()).await.unwrap()
}

#[tokio::test]
async fn a_job_is_one_managers_until_its_lease_is_over() {
    on_both(
        "a_job_is_one_managers_until_its_lease_is_over",
        async |place| {
            let (one, other) = (open(place).await, open(place).await);
            let id = create(&one, 0).await;
            let job = one.claim("one", at(1)).await.unwrap().unwrap();
            assert_eq!(
                (job.id, job.wish, job.secret),
                (id, wish("app:1"), secret())
            );
            assert_eq!(job.deadline, at(1801));
            assert!(other.claim("other", at(2)).await.unwrap().is_none());
            assert_eq!(
                one.renew(id, "one", None, at(4)).await.unwrap(),
                Lease::Holds
            );
            assert!(other.claim("other", at(8)).await.unwrap().is_none());

            // Killed: the other one goes on, with the time that is left.
            let job = other.claim("other", at(9)).await.unwrap().unwrap();
            assert_eq!((job.id, job.deadline), (id, at(1801)));
            let progress = Progress::default();
            assert_eq!(
                one.renew(id, "one", Some(&progress), at(9)).await.unwrap(),
                Lease::Lost
            );
            assert!(
                !one.finish(id, "one", State::Success, &progress, at(9))
                    .await
                    .unwrap()
            );
            assert_eq!(state_of(&one, id).await, State::Running);
            assert_eq!(kept_secret(&one, id).await, "Bearer secret");
            assert!(
                other
                    .finish(id, "other", State::Failure, &progress, at(10))
                    .await
                    .unwrap()
            );
            assert_eq!(state_of(&one, id).await, State::Failure);
            assert_eq!(kept_secret(&one, id).await, "");
            assert!(one.claim("one", at(100)).await.unwrap().is_none());
        },
    )
    .await;
}

#[tokio::test]
async fn many_managers_take_each_job_once() {
    on_both("many_managers_take_each_job_once", async |place| {
        let jobs = open(place).await;
        for second in 0..20 {
            create(&jobs, second).await;
        }
        let take = async |owner: &'static str| {
            let mut taken = Vec::new();
            while let Some(job) = jobs.claim(owner, at(100)).await.unwrap() {
                taken.push(job.id);
            }
            taken
        };
        let (one, other) = futures::join!(take("one"), take("other"));
        let mut all: Vec<i64> = one.into_iter().chain(other).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 20);
    })
    .await;
}

#[tokio::test]
async fn people_cancel_and_want_again() {
    on_both("people_cancel_and_want_again", async |place| {
        let jobs = open(place).await;
        let id = create(&jobs, 0).await;
        let again = Forgotten::of(&wish("app:1"), &secret());
        assert_eq!(jobs.cancel(id, None, at(1)).await.unwrap(), Change::Done);
        assert_eq!(state_of(&jobs, id).await, State::Cancelled);
        assert_eq!(kept_secret(&jobs, id).await, "");
        assert_eq!(jobs.cancel(id, None, at(1)).await.unwrap(), Change::Late);
        assert_eq!(
            jobs.cancel(id + 1, None, at(1)).await.unwrap(),
            Change::Unknown
        );

        assert_eq!(
            jobs.retry(id, &again, None, at(2)).await.unwrap(),
            Change::Done
        );
        assert_eq!(
            jobs.retry(id, &again, None, at(2)).await.unwrap(),
            Change::Late
        );
        let job = jobs.claim("one", at(3)).await.unwrap().unwrap();
        assert_eq!((job.id, job.deadline), (id, at(1803)));
        assert_eq!(job.secret, secret());
        assert_eq!(jobs.cancel(id, None, at(4)).await.unwrap(), Change::Done);
        assert_eq!(state_of(&jobs, id).await, State::Running);
        assert_eq!(
            jobs.renew(id, "one", None, at(4)).await.unwrap(),
            Lease::Cancelled
        );
    })
    .await;
}

/// All that the database itself has of a job.
async fn kept(jobs: &Jobs, id: i64) -> String {
    let query = "SELECT wish || secret || progress FROM jobs WHERE id = $1";
    let query = sqlx::query_scalar(query).bind(id);
    query.fetch_one(jobs.database.pool()).await.unwrap()
}

#[tokio::test]
async fn where_files_are_exactly_is_forgotten_with_the_jobs_end() {
    let test = "where_files_are_exactly_is_forgotten_with_the_jobs_end";
    on_both(test, async |place| {
        let jobs = open(place).await;
        let files = |signature: &str| {
            let url = format!("http://h/a?sig={signature}");
            let request = Request {
                files: Some(vec![url]),
                ..Request::default()
            };
            request.wish().unwrap()
        };
        let (first, none) = (files("first"), Secret::default());
        let id = jobs.create(&first, &none, "root", at(0)).await.unwrap();
        let job = jobs.claim("one", at(1)).await.unwrap().unwrap();
        assert_eq!((&job.wish, &job.secret), (&first, &none));
        // The same for a manager that follows a killed one.
        let job = jobs.claim("other", at(9)).await.unwrap().unwrap();
        assert_eq!(job.wish, first);
        let progress = Progress::default();
        let ended = jobs.finish(id, "other", State::Failure, &progress, at(10));
        assert!(ended.await.unwrap());
        let left = kept(&jobs, id).await;
        assert!(
            left.contains("http://h/a") && !left.contains("first"),
            "{left}"
        );

        let shown = jobs.get(id).await.unwrap().unwrap().wish;
        let again = shown.again(Some(vec!["http://h/a?sig=second".to_owned()]));
        let again = Forgotten::of(&again.unwrap(), &none);
        let done = jobs.retry(id, &again, None, at(11)).await.unwrap();
        assert_eq!(done, Change::Done);
        let job = jobs.claim("one", at(12)).await.unwrap().unwrap();
        assert_eq!(job.wish, files("second"));
    })
    .await;
}

#[tokio::test]
async fn lists_are_by_state_and_page_and_the_old_are_forgotten() {
    on_both(
        "lists_are_by_state_and_page_and_the_old_are_forgotten",
        async |place| {
            let jobs = open(place).await;
            let (first, second) = (create(&jobs, 0).await, create(&jobs, 1).await);
            let hostile = "'; DROP TABLE jobs; --<script>";
            let third = jobs
                .create(&wish("app:1"), &secret(), hostile, at(2))
                .await
                .unwrap();
            jobs.cancel(second, None, at(3)).await.unwrap();
            let ids = |list: Vec<Job>| list.into_iter().map(|job| job.id).collect::<Vec<_>>();
            assert_eq!(
                ids(jobs.list(None, i64::MAX, 10).await.unwrap()),
                [third, second, first]
            );
            assert_eq!(ids(jobs.list(None, third, 1).await.unwrap()), [second]);
            let pending = jobs.list(Some(State::Pending), i64::MAX, 10).await.unwrap();
            assert_eq!(pending[0].created_by, hostile);
            assert_eq!(ids(pending), [third, first]);
            let mut counts = jobs.counts().await.unwrap();
            counts.sort_by_key(|(state, _)| state.as_str());
            assert_eq!(counts, [(State::Cancelled, 1), (State::Pending, 2)]);
            jobs.forget(at(8 * 24 * 3600)).await.unwrap();
            assert_eq!(
                ids(jobs.list(None, i64::MAX, 10).await.unwrap()),
                [third, first]
            );
        },
    )
    .await;
}

#[tokio::test]
async fn one_push_that_two_managers_hear_of_is_one_job() {
    let test = "one_push_that_two_managers_hear_of_is_one_job";
    on_both(test, async |place| {
        let managers = [open(place).await, open(place).await];
        for round in 0..10 {
            let (wish, secret) = (wish(&format!("app:{round}")), secret());
            let heard = |jobs: usize| managers[jobs % 2].create_once(&wish, &secret, "hook", at(0));
            let ids = futures::future::try_join_all((0..8).map(heard)).await;
            let ids = ids.unwrap();
            assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        }
        let jobs = managers[0].list(None, i64::MAX, 100).await;
        assert_eq!(jobs.unwrap().len(), 10);
    })
    .await;
}
