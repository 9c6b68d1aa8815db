//! temp
fn main() {
    let args: Vec<String> = std::env::args().collect();
    assert_eq!(args[1], "run");
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = metacdn::config::Config::load(std::path::Path::new(&args[3])).unwrap();
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    rt.block_on(async move {
        let node = config.node.unwrap();
        let identity = config.identity.load().unwrap();
        let listeners = metacdn::node::Listeners {
            api: tokio::net::TcpListener::bind(node.listen).await.unwrap(),
            download: tokio::net::TcpListener::bind(node.download_listen).await.unwrap(),
            price: tokio::net::TcpListener::bind(node.price_listen).await.unwrap(),
        };
        let stop = tokio_util::sync::CancellationToken::new();
        let s2 = stop.clone();
        tokio::spawn(async move {
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap().recv().await;
            s2.cancel();
        });
        metacdn::node::run(node, identity, listeners, stop).await.unwrap();
    });
}
