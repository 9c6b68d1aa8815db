//! Images to test with: real ones that others publish, and odd, broken and hostile ones that are made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

mod odd;

/// All images, at least 500: photographs, the ones that the crate `image` is tested with, and odd ones.
pub fn corpus() -> Vec<PathBuf> {
    static ALL: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
        let published = published();
        assert!(published.len() >= 150, "only {} images of the crate image", published.len());
        let odd = odd::write(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures"));
        let all = [photographs(), published, odd].concat();
        assert!(all.len() >= 500, "only {} images", all.len());
        all
    });
    ALL.clone()
}

/// Photographs, from packages that have some among their files.
pub fn photographs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python/lib");
    let python = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path().join("site-packages"));
    let mut found: Vec<PathBuf> = python
        .flat_map(|packages| {
            [
                files(&packages.join("sklearn/datasets/images")),
                ["astronaut", "camera", "chelsea", "coffee", "motorcycle_left"]
                    .map(|name| packages.join(format!("skimage/data/{name}.png")))
                    .to_vec(),
                ["retina", "rocket"].map(|name| packages.join(format!("skimage/data/{name}.jpg"))).to_vec(),
            ]
            .concat()
        })
        .filter(|path| {
            path.extension().is_some_and(|ending| ["jpg", "png"].contains(&ending.to_string_lossy().as_ref()))
        })
        .filter(|path| path.exists())
        .collect();
    assert!(found.len() >= 9, "only {} photographs in .tools/python: run ./test.sh setup", found.len());
    found.extend(
        files(&crate_folder("jpeg-decoder").join("benches"))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|ending| ending == "jpg")),
    );
    found
}

/// What the crate `image` is tested with, of every kind of file that it has.
fn published() -> Vec<PathBuf> {
    let others = ["rs", "md", "txt"];
    let all = files(&crate_folder("image").join("tests")).into_iter();
    all.filter(|path| path.extension().is_none_or(|ending| !others.iter().any(|other| ending == *other))).collect()
}

/// Where Cargo keeps the source of the crate `name` that the tests use.
fn crate_folder(name: &str) -> PathBuf {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    let output = metadata.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == name).expect("it is a dependency of the tests");
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// The files in `folder` and the folders in it, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect();
    found.sort();
    found
}
