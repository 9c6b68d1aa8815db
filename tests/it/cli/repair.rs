//! `metacdn repair`: what is damaged is found and mended, and what nobody has is told.

use super::{User, noise};
use crate::blobs::file_of;
use crate::cluster::{Cluster, get, put, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_found_and_mended() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    let contents = [1, 2, 3].map(|seed| noise(100_000, seed));
    for (number, content) in contents.iter().enumerate() {
        put(&aws, &format!("file-{number}"), content.clone()).await;
    }
    put(&aws, "small", "text").await;
    user.run(&["verify", "--wait", "30"]).await.ok();
    std::fs::write(file_of(&cluster.data("AWS"), &contents[0]), noise(100_000, 9)).unwrap();
    std::fs::remove_file(file_of(&cluster.data("GC"), &contents[1])).unwrap();

    let started = user.run(&["repair", "AWS"]).await.ok();
    assert!(started.stdout.contains("`metacdn repair AWS --wait` says what it finds"), "{started:?}");
    let ended = user.run(&["repair", "--wait"]).await.ok();
    let rows: Vec<Vec<_>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NODE", "BLOBS", "BYTES", "DAMAGED", "MISSING", "MENDED"]);
    assert_eq!((rows[1][0], rows[2][0]), ("AWS", "GC"));
    assert_eq!(rows[2][rows[2].len() - 2..], ["1", "1"], "{ended:?}");
    for client in [&aws, &gc] {
        for (number, content) in contents.iter().enumerate() {
            wait_until("all is whole", async || get(client, &format!("file-{number}")).await.as_ref() == Some(content))
                .await;
        }
    }
    let json = user.run(&["repair", "--wait", "--json"]).await.ok().json();
    assert_eq!(
        (&json[0]["scrub"]["round"]["blobs"], &json[0]["scrub"]["unmended"]),
        (&4.into(), &0.into()),
        "{json:?}"
    );

    // What no node has is said, and so is who cannot be asked.
    for name in ["AWS", "GC"] {
        std::fs::remove_file(file_of(&cluster.data(name), &contents[2])).unwrap();
    }
    let words =
        ["AWS: 1 blob is damaged or missing, and no other node has it", "upload the files again, under any key"];
    user.run(&["repair", "--wait"]).await.failed(1, &words);
    // The next round finds nothing new, which must not read as if all were well.
    let again = user.run(&["repair", "AWS", "--wait"]).await.failed(1, &words);
    let rows: Vec<Vec<_>> = again.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0].last(), rows[1].last()), (Some(&"UNMENDED"), Some(&"1")), "{again:?}");
    let status = user.run(&["status"]).await.ok();
    assert!(status.stdout.contains("UNMENDED") && status.stderr.contains("at AWS 1 blob is damaged"), "{status:?}");
    assert_eq!(user.run(&["status", "--json"]).await.ok().json()[1]["unmended"], 1);
    let said = user.run(&["repair", "AWS"]).await.ok().stdout;
    assert!(said.contains("(1 blob is damaged or missing and not mended so far)"), "{said}");
    put(&aws, "anything", contents[2].clone()).await;
    wait_until("what is uploaded again is mended", async || user.run(&["verify", "--bytes"]).await.code == 0).await;
    cluster.stop("GC").await;
    user.run(&["repair"]).await.failed(1, &["GC cannot be asked"]);
}
