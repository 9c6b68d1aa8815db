//! An edge that reads its configuration while it stops.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_come_holds_up_no_stop() {
    let origin = counting(Some("max-age=1000")).await;
    let mut edge = ByFile::start(&site("site", &origin, "")).await;
    std::fs::remove_file(&edge.path).unwrap();
    // Like a disk that hangs: whoever reads it waits for whoever writes it.
    mknodat(CWD, &edge.path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let admin = edge.at["edge.admin_listen"];
    let asked = tokio::spawn(async move { crate::edge::ask(admin, Method::POST, "/v1/reload", &[]).await });
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
    let writer = std::sync::Mutex::new(None);
    wait_until("it is read", async || {
        let mut writer = writer.lock().unwrap();
        *writer = options.open(&edge.path).ok();
        writer.is_some()
    })
    .await;
    edge.stop.cancel();
    timeout(PATIENCE, &mut edge.task).await.expect("it ends").unwrap();
    assert_eq!(asked.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(writer);
}
