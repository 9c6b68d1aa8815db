// A browser takes its picture of the page after the load event, which waits for a frame that is being written.
const hold = document.querySelector("#hold").contentDocument;
hold.open();

async function show() {
  const images = [...document.images];
  await Promise.all(images.map((image) => image.decode()));
  const shown = images.filter((image) => image.complete && image.naturalWidth > 0).length;
  const { background } = await (await fetch("data.json")).json();
  document.querySelector("#scripted").style.background = background;
  // Others are not to be had by this proxy. It answers for `http`, and opens no tunnel for `https`.
  const plain = await fetch("http://elsewhere.example/", { mode: "no-cors" }).then(() => "answered", () => "failed");
  const secure = await fetch("https://elsewhere.example/", { mode: "no-cors" }).then(() => "answered", () => "failed");
  document.title = `${shown} images; http ${plain}, https ${secure}`;
  await fetch(`/seen/${shown}-images.txt`);
}

show()
  .catch((error) => { document.title = `${error}`; })
  .finally(() => hold.close());
