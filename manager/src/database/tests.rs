//! Both databases for the tests: a SQLite file, and PostgreSQL's own cluster in a directory
//! of the test, without a port.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::Connection as _;
use tempfile::TempDir;

use super::*;

/// A loaded machine takes its time to make a cluster.
const LIMIT: Duration = Duration::from_secs(120);

/// Says that the tests of REST are to run on PostgreSQL.
pub(crate) const ON_POSTGRES: &str = "DARTER_TEST_REST_ON_POSTGRES";

/// Where a test's database is; it can be opened more than once.
pub(crate) struct Place {
    dir: TempDir,
    url: Option<DatabaseUrl>,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            url: None,
        }
    }

    /// SQLite; PostgreSQL, if there is one, where the process was told so.
    pub(crate) async fn for_rest() -> Self {
        let postgres = match std::env::var_os(ON_POSTGRES) {
            Some(_) => Self::postgres("REST").await,
            None => None,
        };
        postgres.unwrap_or_else(Self::sqlite)
    }

    async fn postgres(test: &str) -> Option<Self> {
        let Some(cluster) = Cluster::shared() else {
            say(&format!(
                "skipped {test} on PostgreSQL: it is not installed"
            ));
            return None;
        };
        say("used postgres");
        Some(Self {
            dir: tempfile::tempdir().unwrap(),
            url: Some(cluster.new_database().await),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) const fn url(&self) -> Option<&DatabaseUrl> {
        self.url.as_ref()
    }

    pub(crate) async fn open(&self) -> Database {
        let begin = Instant::now();
        loop {
            let opened = Database::open(self.url(), self.dir(), Metrics::default()).await;
            match opened {
                Ok(database) => return database,
                // The one server of all tests may take longer than a manager waits for it.
                Err(OpenError::Database {
                    cause: sqlx::Error::PoolTimedOut,
                    ..
                }) if begin.elapsed() < LIMIT => {}
                Err(cause) => panic!("{cause:?}"),
            }
        }
    }
}

/// Runs a test on SQLite, then on PostgreSQL where that is installed.
pub(crate) async fn on_both(test: &str, body: impl AsyncFn(&Place)) {
    body(&Place::sqlite()).await;
    if let Some(place) = Place::postgres(test).await {
        body(&place).await;
    }
}

/// As the other tests' report; see hack/test.sh.
fn say(line: &str) {
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("DARTER_TEST_REPORT")
        && let Ok(mut file) = OpenOptions::new().append(true).open(path)
    {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// One server for all tests of the process. It ends with that, whose pipe it reads, and then
/// removes its directory.
struct Cluster {
    dir: PathBuf,
    /// Has the pipe.
    _keeper: Child,
    databases: AtomicU64,
}

static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();

impl Cluster {
    fn shared() -> Option<&'static Self> {
        let start = || binaries().map(|binaries| Self::start(&binaries));
        SHARED.get_or_init(start).as_ref()
    }

    fn start(binaries: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        let is_root = output("id", &["-u"]) == "0";
        if is_root {
            let id = |flag| output("id", &[flag, "postgres"]).parse().ok();
            chown(&dir, id("-u"), id("-g")).unwrap();
        }
        let script = format!(
            "set -e; cd {dir}; \
             {bin}/initdb -D data -U darter -A trust -N >initdb.log 2>&1; \
             {bin}/pg_ctl -D data -l postgres.log -w -t {limit} \
               -o '-k {dir} -c listen_addresses= -c fsync=off' start >pg_ctl.log 2>&1; \
             echo ready; read -r _ || true; \
             {bin}/pg_ctl -D data -m immediate stop >pg_ctl.log 2>&1; rm -rf {dir}",
            dir = dir.display(),
            bin = binaries.display(),
            limit = LIMIT.as_secs(),
        );
        // The server does not run as root.
        let (program, first): (&str, &[&str]) = if is_root {
            ("runuser", &["-u", "postgres", "--", "sh", "-c"])
        } else {
            ("sh", &["-c"])
        };
        let mut keeper = Command::new(program)
            .args(first)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let out = keeper.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "no server: see {}", dir.display());
        Self {
            dir,
            _keeper: keeper,
            databases: AtomicU64::new(0),
        }
    }

    fn url(&self, database: &str) -> String {
        let dir = self.dir.display();
        format!("postgres://darter@localhost/{database}?host={dir}")
    }

    async fn new_database(&self) -> DatabaseUrl {
        install_default_drivers();
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = async {
            let mut connection = sqlx::AnyConnection::connect(&self.url("postgres")).await?;
            let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
            connection.execute(create).await?;
            connection.close().await
        };
        let created = tokio::time::timeout(LIMIT, create).await;
        created.expect("the server answers").unwrap();
        DatabaseUrl::new(self.url(&name))
    }
}

/// Debian keeps the server's programs off everybody's PATH.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), [b'x'; 4096]).unwrap();
    let open = async |dir: &Path| Database::open(None, dir, Metrics::default()).await;
    assert!(matches!(
        open(dir.path()).await,
        Err(OpenError::Database { .. } | OpenError::Tables { .. })
    ));
    let blocked = dir.path().join(FILE).join("below-a-file");
    assert!(matches!(open(&blocked).await, Err(OpenError::File { .. })));
    let nowhere = DatabaseUrl::new("postgres://u:secret@127.0.0.1:1/x");
    assert!(!format!("{nowhere:?}").contains("secret"));
    let opened = Database::open(Some(&nowhere), dir.path(), Metrics::default()).await;
    let error = opened.unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn odd_directories_are_no_trouble_and_the_file_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("what? 100%#ä");
    let mode = |name: &str| {
        let kept = std::fs::metadata(odd.join(name)).unwrap();
        kept.permissions().mode() & 0o777
    };
    let open = async || {
        let opened = Database::open(None, &odd, Metrics::default()).await;
        opened.unwrap()
    };
    drop(open().await);
    assert_eq!(mode(FILE), 0o600);
    // As a copy that was put back has it.
    let loose = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(odd.join(FILE), loose).unwrap();
    let database = open().await;
    assert_eq!((mode(FILE), mode("manager.db-wal")), (0o600, 0o600));
    let overwrites: i64 = sqlx::query_scalar("PRAGMA secure_delete")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(overwrites, 1);
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let place = Place::sqlite();
    let database = place.open().await;
    let never = std::future::pending::<Result<(), sqlx::Error>>();
    let never = database.run_within(Duration::from_millis(1), never);
    let error = never.await.unwrap_err();
    assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
    assert_eq!(database.metrics().database_failures.get(), 1);
    let answer = sqlx::query_scalar("SELECT 1").fetch_one(database.pool());
    let answer: i64 = database.run(answer).await.unwrap();
    assert_eq!(answer, 1);
}
