//! Sites that come and go.

use super::*;

fn answer_of(site: &str) -> CacheKey {
    CacheKey::Answer { site: site.into(), uri: "https://a.example/".into() }
}

async fn keep(disk: &Arc<Disk>, key: &CacheKey) {
    let kept = disk.begin(key, &head(1, 100_000), 1.0).expect("there is room");
    for slice in 0..4 {
        let end = 100_000.min((u64::from(slice) + 1) * SLICE);
        assert!(put(&kept, slice, body(1, 100_000).slice((u64::from(slice) * SLICE) as usize..end as usize)).await);
    }
}

async fn settled(disk: &Disk) {
    // What it has to remove comes behind what tells of it.
    disk.settle().await;
    disk.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_site_that_is_gone_go_now_and_with_the_next_start() {
    let root = tempfile::tempdir().expect("a folder");
    let object = CacheKey::Object { key: "a".parse().expect("a key"), variant: Variant::Original };
    let one_bytes = {
        let disk = open(root.path(), 1 << 30).await;
        for key in [answer_of("stays"), answer_of("goes"), answer_of("comes"), object.clone()] {
            keep(&disk, &key).await;
        }
        let all_bytes = disk.used_bytes();
        disk.keep_sites(["stays", "comes"].into_iter());
        // Of what has gone somebody may still keep something.
        keep(&disk, &answer_of("goes")).await;
        settled(&disk).await;
        assert_eq!(disk.used_bytes(), all_bytes, "one went, and one came");
        assert_eq!(disk.load(&answer_of("goes"), &[]).await.len(), 1);
        all_bytes / 4
    };
    let disk = open_with(root.path(), 1 << 30, SLICE).expect("a tier");
    disk.keep_sites(["stays"].into_iter());
    ready(&disk).await;
    settled(&disk).await;
    for (key, there) in [(answer_of("stays"), 1), (answer_of("goes"), 0), (answer_of("comes"), 0), (object, 1)] {
        assert_eq!(disk.load(&key, &[]).await.len(), there, "{key:?}");
    }
    assert!(disk.used_bytes().abs_diff(2 * one_bytes) < 1_000, "{} of {one_bytes} each", disk.used_bytes());
}
