use darter_api::{HostId, Member, MemberKind, NodeKey};

use super::*;
use crate::{database::tests::on_both, members::Members};

const AT: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn of_idc(idc: &str) -> Scopes {
    Scopes {
        idcs: vec![idc.to_owned()],
        ..Scopes::default()
    }
}

fn at(idc: &str, cluster: Option<&str>) -> Place {
    Place {
        cluster: cluster.map(name),
        idc: idc.to_owned(),
        ..Place::default()
    }
}

#[tokio::test]
async fn clusters_are_made_changed_and_forgotten_by_all_managers() {
    let test = "clusters_are_made_changed_and_forgotten_by_all_managers";
    on_both(test, async |place| {
        let clusters = Clusters::open(place.open().await).await.unwrap();
        let other = Clusters::open(place.open().await).await.unwrap();
        let of = |clusters: &Clusters, place: Place| clusters.directory().cluster_of(&place);
        assert_eq!(of(&clusters, at("fra", None)), Ok(ClusterName::default()));
        let east = name("east");
        let unknown = of(&clusters, at("", Some("east")));
        assert_eq!(unknown, Err(UnknownCluster(east.clone())));

        let put = async |scopes: &Scopes, known| clusters.put(&east, scopes, known).await;
        let early = put(&of_idc("fra"), Some(1)).await;
        assert!(matches!(early, Err(ClusterError::Changed)), "{early:?}");
        assert_eq!(put(&of_idc("fra"), None).await.unwrap(), Put::Made);
        assert_eq!(of(&clusters, at("fra", None)), Ok(east.clone()));
        assert_eq!(
            of(&clusters, at("fra", Some("default"))),
            Ok(ClusterName::default())
        );
        assert_eq!(put(&of_idc("ams"), Some(1)).await.unwrap(), Put::Changed);
        let late = put(&of_idc("fra"), Some(1)).await;
        assert!(matches!(late, Err(ClusterError::Changed)), "{late:?}");
        let wrong = put(&of_idc(""), None).await;
        assert!(matches!(wrong, Err(ClusterError::Scopes(_))), "{wrong:?}");
        let mut watched = other.watch();
        watched.mark_unchanged();
        other.look().await.unwrap();
        assert!(watched.has_changed().unwrap());
        assert_eq!(of(&other, at("ams", None)), Ok(east.clone()));
        other.look().await.unwrap();

        assert!(clusters.remove(&east, AT).await.unwrap());
        assert!(!clusters.remove(&east, AT).await.unwrap());
        assert_eq!(of(&clusters, at("ams", None)), Ok(ClusterName::default()));
        let default = clusters.remove(&ClusterName::default(), AT).await;
        assert!(matches!(default, Err(ClusterError::Default)));
    })
    .await;
}

#[tokio::test]
async fn a_cluster_with_somebody_alive_stays() {
    on_both("a_cluster_with_somebody_alive_stays", async |place| {
        let database = place.open().await;
        let clusters = Clusters::open(database.clone()).await.unwrap();
        let members = Members::open(database, Duration::from_secs(6))
            .await
            .unwrap();
        let east = name("east");
        clusters.put(&east, &Scopes::default(), None).await.unwrap();
        let host: HostId = NodeKey::from_seed([1; 32]).id();
        let member = Member {
            kind: MemberKind::Scheduler,
            host,
            address: "http://10.0.0.1:8002".to_owned(),
            version: "0.1.0".to_owned(),
            place: at("", Some("east")),
        };
        let stream = members.new_stream(AT);
        members.beat(&member, &east, stream, AT).await.unwrap();
        let ago = |seconds| AT - time::Duration::seconds(seconds);
        let alive = clusters.remove(&east, ago(6)).await;
        assert!(matches!(alive, Err(ClusterError::Alive)), "{alive:?}");
        members.end(member.kind, host, stream).await.unwrap();
        assert!(clusters.remove(&east, ago(6)).await.unwrap());
    })
    .await;
}
