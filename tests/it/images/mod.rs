//! Images: what a node makes of them, and for whom. All pictures are drawn here.

mod adaptive;
mod at_edges;
mod corpus;
mod hostile;
mod life;
mod names;

use std::net::{IpAddr, SocketAddr};

use jpeg_encoder::{ColorType, Encoder};
use metacdn::client::Peer;
use metacdn::model::ImageMode;
use metacdn::node;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::answers::{Answer, ask};
use crate::cluster::PATIENCE;

const WIDTH: u16 = 240;
const HEIGHT: u16 = 180;

/// The colours of a picture; another `seed`, another picture.
fn drawn(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let value = |x: u32, y: u32, channel: u32| {
        let wave = (f64::from(x + seed) / 9.0).sin() + (f64::from(y * (channel + 1)) / 7.0).cos();
        (f64::from(x * 90 / width + y * 90 / height) + 16.0 * (wave + 2.0)) as u8
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    places.flat_map(|(x, y)| (0..3).map(move |channel| value(x, y, channel))).collect()
}

/// A JPEG of a picture.
fn photograph(seed: u32) -> Vec<u8> {
    photograph_of(WIDTH, HEIGHT, seed)
}

fn photograph_of(width: u16, height: u16, seed: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let pixels = drawn(width.into(), height.into(), seed);
    Encoder::new(&mut file, 95).encode(&pixels, width, height, ColorType::Rgb).unwrap();
    file
}

/// A PNG of a picture.
fn painting(seed: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, WIDTH.into(), HEIGHT.into());
    encoder.set_color(png::ColorType::Rgb);
    let pixels = drawn(WIDTH.into(), HEIGHT.into(), seed);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    file
}

/// The width and height of a JPEG, from its frame (ITU-T T.81 section B.2.2).
fn size_of(jpeg: &[u8]) -> (u16, u16) {
    let frame = jpeg.windows(2).position(|pair| pair[0] == 0xff && (0xc0..=0xc2).contains(&pair[1])).unwrap();
    let number = |at: usize| u16::from_be_bytes([jpeg[frame + at], jpeg[frame + at + 1]]);
    (number(7), number(5))
}

/// A node that resizes in `mode`, and waits for it as long as a test does.
fn resizing(mode: ImageMode) -> impl Fn(&mut node::Config) {
    move |config| {
        config.images = mode;
        config.resize.wait_ms_max = PATIENCE.as_millis() as u64;
    }
}

async fn get(peer: &Peer, path: &str) -> Answer {
    ask(peer, "GET", path, &[], "").await
}

/// The counter `name` of a node.
async fn counted(peer: &Peer, name: &str) -> u64 {
    let text = get(peer, "/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("metacdn_node_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// A client of the download API that keeps its connection.
struct Browser {
    connection: TcpStream,
    /// The port of the server that it believes to ask.
    port: u16,
}

impl Browser {
    async fn open(server: SocketAddr) -> Self {
        Self::open_from("127.0.0.1", server).await
    }

    /// A client that reaches the server by the relay at `relay`.
    async fn open_through(relay: SocketAddr, server: SocketAddr) -> Self {
        Self { connection: TcpStream::connect(relay).await.unwrap(), port: server.port() }
    }

    /// A client at another address of this machine.
    async fn open_from(ip: &str, server: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
        Self { connection: socket.connect(server).await.unwrap(), port: server.port() }
    }

    async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{}\r\n{fields}\r\n", self.port);
        self.connection.write_all(request.as_bytes()).await.unwrap();
        timeout(PATIENCE, self.answer()).await.expect("an answer comes")
    }

    async fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.connection.read_u8().await.unwrap());
        }
        let mut answer = Answer::parse(&head);
        let length = answer.headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        answer.body = vec![0; length];
        self.connection.read_exact(&mut answer.body).await.unwrap();
        answer
    }

    /// The variant of an image that it gets.
    async fn variant(&mut self, path: &str) -> String {
        let answer = self.get(path, &[]).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.header("metacdn-variant").to_owned()
    }
}
