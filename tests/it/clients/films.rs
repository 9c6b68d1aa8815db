//! Films: ffmpeg and ffprobe, by range and by HLS.

use super::Site;

/// A film of four seconds with a tone, by ffmpeg; `output` says what becomes of it.
async fn make_film(site: &Site, output: &[&str]) {
    let input = ["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25", "-f", "lavfi", "-i", "sine=frequency=440"];
    // Noise makes it large.
    let codecs = ["-t", "4", "-vf", "noise=alls=20:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-qp", "24"];
    let more = ["-pix_fmt", "yuv420p", "-g", "25", "-c:a", "aac"];
    ffmpeg(site, &[&input[..], &codecs, &more, output].concat()).await;
}

async fn ffmpeg(site: &Site, arguments: &[&str]) -> String {
    let common = ["-nostdin", "-loglevel", "error"];
    let printed = site.run("ffmpeg", &[&common, arguments].concat()).await;
    assert_eq!(printed.stderr, "", "{arguments:?}");
    printed.text().to_owned()
}

/// Hashes of all packets, picture and sound, from `start` on.
async fn packets(site: &Site, start: &str, source: &str) -> String {
    let hashes = ffmpeg(site, &["-ss", start, "-i", source, "-map", "0", "-c", "copy", "-f", "framemd5", "-"]).await;
    assert!(hashes.lines().count() > 50, "{hashes}");
    hashes
}

fn position(bytes: &[u8], name: &[u8]) -> usize {
    bytes.windows(name.len()).position(|window| window == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_plays_a_film_whose_index_is_at_its_end() {
    let site = Site::start().await;
    site.make_folder("www");
    make_film(&site, &["www/film.mp4"]).await;
    let film = site.read("www/film.mp4");
    assert!(position(&film, b"moov") > 4_000_000 && position(&film, b"mdat") < 1_000);
    site.publish().await;
    let url = site.url("film.mp4");

    let asked = ["-v", "error", "-show_entries", "format=duration,size:stream=codec_name,width", "-of", "csv=p=0"];
    let known = site.run("ffprobe", &[&asked[..], &["www/film.mp4"]].concat()).await;
    let probed = site.run("ffprobe", &[&asked[..], &[&url]].concat()).await;
    assert_eq!((probed.text(), probed.stderr.as_str()), (known.text(), ""));
    assert!(probed.text().contains("h264,640"), "{}", probed.text());
    // It does not read all that lies before the index.
    let exchanges = site.exchanges();
    let ranges = exchanges.iter().filter_map(|exchange| exchange.asked("range").strip_prefix("bytes="));
    let firsts: Vec<u64> = ranges.map(|range| range.split('-').next().unwrap().parse().unwrap()).collect();
    assert!(firsts.iter().any(|first| *first > 4_000_000), "{firsts:?}");

    for start in ["0", "2.5"] {
        assert_eq!(packets(&site, start, &url).await, packets(&site, start, "www/film.mp4").await, "from {start}");
    }
    site.exchanges();
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_plays_a_playlist_with_its_segments() {
    let site = Site::start().await;
    site.make_folder("www/film");
    let hls = ["-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod", "-hls_segment_filename"];
    make_film(&site, &[&hls[..], &["www/film/part %03d.ts", "www/film/all.m3u8"]].concat()).await;
    site.publish().await;
    let url = site.url("film/all.m3u8");
    assert_eq!(packets(&site, "0", &url).await, packets(&site, "0", "www/film/all.m3u8").await);
    let exchanges = site.exchanges();
    let kinds: Vec<_> = exchanges.iter().map(|exchange| (exchange.path(), exchange.answered("content-type"))).collect();
    assert!(kinds[0].0 == "/film/all.m3u8" && kinds[0].1.ends_with("mpegurl"), "{kinds:?}");
    for segment in 0..4 {
        let path = format!("/film/part%20{segment:03}.ts");
        assert!(kinds.iter().any(|kind| kind.0 == path && kind.1.starts_with("video/")), "{kinds:?}");
    }
}
