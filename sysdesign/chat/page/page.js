// The page: give a picture, see what the model reads in it, ask. Talks to web.py in newline-delimited JSON.

import { drawingBoard } from "./draw.js";

const $ = (id) => document.getElementById(id);
const node = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

let picture = null; // {picture, width, height, tokens, address}
let turns = []; // what was said, as the server wants it
let sent = null; // the picture that is already part of the conversation
let running = null; // AbortController of the answer being written

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const split = (rest + part.value).split("\n");
    rest = split.pop();
    for (const line of split) if (line) yield JSON.parse(line);
  }
}

async function post(path, body, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", body, signal });
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new Error("the page's server does not answer - is the command still running in the terminal?");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error ?? `HTTP ${response.status}`);
  }
  return response;
}

// pictures

async function give(blob) {
  $("picture-error").hidden = true;
  try {
    const stored = await (await post("pictures", blob)).json();
    picture = { ...stored, address: URL.createObjectURL(blob) };
  } catch (err) {
    $("picture-error").textContent = err.message;
    $("picture-error").hidden = false;
    return;
  }
  choose("upload");
  $("shown").src = picture.address;
  $("stage").style.setProperty("--aspect", picture.width / picture.height);
  $("facts").textContent = `${picture.width} × ${picture.height} pixels, ${picture.tokens} tokens`;
  $("stage").hidden = false;
  $("drop").classList.add("small");
  forget();
}

function forget() {
  $("found").hidden = true;
  $("overlay").replaceChildren();
  $("labels").replaceChildren();
}

$("file").addEventListener("change", () => {
  if ($("file").files[0]) give($("file").files[0]);
  $("file").value = "";
});
$("remove").addEventListener("click", () => {
  picture = sent = null;
  $("stage").hidden = true;
  $("drop").classList.remove("small");
  forget();
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/"));
  if (file) give(file);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) give(event.dataTransfer.files[0]);
  });
}

// what the model reads

$("read").addEventListener("click", async () => {
  const asked = picture;
  $("read").disabled = true;
  forget();
  $("found").hidden = false;
  $("found-state").textContent = "reading…";
  fill("components", []);
  fill("edges", []);
  $("words").hidden = true;
  try {
    for await (const step of lines(await post("read", JSON.stringify({ picture: asked.picture })))) {
      if (step.error) throw new Error(step.error);
      if (asked === picture) show(step);
    }
  } catch (err) {
    $("found-state").textContent = err.message;
  }
  $("read").disabled = false;
});
$("show").addEventListener("change", () => {
  $("overlay").style.visibility = $("labels").style.visibility = $("show").checked ? "visible" : "hidden";
});

function fill(id, rows) {
  $(id).tBodies[0].replaceChildren(...rows.map((cells) => node("tr", {}, ...cells.map((text) => node("td", { textContent: text, className: typeof text === "number" ? "number" : "" })))));
}

function show(step) {
  const placed = step.components.filter((c) => c.box);
  const boxes = Object.fromEntries(placed.map((c) => [c.name.toLowerCase(), c.box]));
  const drawn = step.edges.filter((e) => boxes[e.src.toLowerCase()] && boxes[e.dst.toLowerCase()]);
  $("found-state").textContent = !step.done
    ? "placing…"
    : step.components.length
      ? `${step.components.length} components (${placed.length} placed), ${step.edges.length} arrows`
      : "no graph in the answer";
  fill("components", step.components.map((c, index) => [index + 1, c.name, c.type ?? ""]));
  fill("edges", step.edges.map((e) => [`${e.src} → ${e.dst}`, e.label ?? ""]));
  $("words").hidden = false;
  $("words").open = step.done && step.components.length === 0;
  $("words").querySelector("pre").textContent = step.answer;

  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const ends = drawn.map((e) => between(boxes[e.src.toLowerCase()], boxes[e.dst.toLowerCase()]));
  $("overlay").replaceChildren(
    ...placed.map(({ box: [x0, y0, x1, y1] }) => svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 })),
    ...["case", ""].flatMap((kind) => ends.map(({ from, to }) => svg("line", { class: kind, x1: from[0], y1: from[1], x2: to[0], y2: to[1] }))),
  );
  $("labels").replaceChildren(
    ...ends.map(({ to, angle }) => {
      const tip = node("span", { className: "tip", textContent: "➤" });
      tip.style.left = `${to[0] / 10}%`;
      tip.style.top = `${to[1] / 10}%`;
      tip.style.transform = `translate(-50%, -50%) rotate(${angle}rad) translateX(-40%)`;
      return tip;
    }),
    ...placed.map((c) => {
      const label = node("span", { textContent: step.components.indexOf(c) + 1, title: c.name });
      label.style.left = `${c.box[0] / 10}%`;
      label.style.top = `${c.box[1] / 10}%`;
      return label;
    }),
  );
}

function between(a, b) { // the line between two boxes' centres, cut at their borders; the angle as it looks on the screen
  const middle = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  const [p, q] = [middle(a), middle(b)];
  const leave = (box, [x, y], [dx, dy]) => {
    const t = Math.min(dx ? (box[2] - box[0]) / 2 / Math.abs(dx) : Infinity, dy ? (box[3] - box[1]) / 2 / Math.abs(dy) : Infinity, 0.5);
    return [x + dx * t, y + dy * t];
  };
  const [dx, dy] = [q[0] - p[0], q[1] - p[1]];
  const scale = picture.height / picture.width;
  return { from: leave(a, p, [dx, dy]), to: leave(b, q, [-dx, -dy]), angle: Math.atan2(dy * scale, dx) };
}

// the conversation

function formatted(text) { // fenced code, `code` and **bold**; everything else stays as it was written
  return text.split(/```[a-z]*\n?/).map((part, index, all) => {
    if (index % 2) return node("pre", { textContent: part.trimEnd() });
    const span = node("span"), last = index === all.length - 1;
    for (const piece of (last ? part : part.trimEnd()).split(/(\*\*[^*\n]+\*\*|`[^`\n]+`)/)) {
      if (/^\*\*.+\*\*$/s.test(piece)) span.append(node("b", { textContent: piece.slice(2, -2) }));
      else if (/^`.+`$/s.test(piece)) span.append(node("code", { textContent: piece.slice(1, -1) }));
      else span.append(piece);
    }
    return span;
  });
}

async function ask(text) {
  if (running || !text.trim()) return;
  $("said").querySelector(".empty")?.remove();
  const turn = { role: "user", text };
  if (picture && picture.picture !== sent) turn.picture = picture.picture;
  const mine = node("div", { className: "turn user" });
  if (turn.picture) mine.append(node("img", { src: picture.address, alt: "the diagram" }));
  mine.append(text);
  const answer = node("div", { className: "turn assistant wait" });
  $("said").append(mine, answer);
  running = new AbortController();
  busy(true);
  let said = "", last = null;
  try {
    const response = await post("ask", JSON.stringify({ turns: [...turns, turn] }), running.signal);
    for await (const event of lines(response)) {
      if (event.error) throw new Error(event.error);
      if (event.done) last = event.done;
      said += event.text ?? "";
      answer.replaceChildren(...formatted(said));
      $("said").scrollTop = $("said").scrollHeight;
    }
    const speed = last?.output_tokens && last.seconds ? `, ${(last.output_tokens / last.seconds).toFixed(1)} tokens/s` : "";
    const cut = last?.finish === "length" ? " · cut at the length limit" : "";
    answer.append(node("small", { textContent: `${last?.output_tokens ?? "?"} tokens${speed}${cut}` }));
  } catch (err) {
    if (err.name === "AbortError") answer.append(node("small", { textContent: "stopped" }));
    else answer.append(node("p", { className: "error", textContent: err.message }));
    $("said").scrollTop = $("said").scrollHeight;
    if (!said) {
      $("question").value ||= text;
      answer.classList.remove("wait");
      running = null;
      busy(false);
      return;
    }
  }
  $("said").scrollTop = $("said").scrollHeight;
  answer.classList.remove("wait");
  if (turn.picture) sent = turn.picture;
  turns.push(turn, { role: "assistant", text: said || " " });
  running = null;
  busy(false);
}

function busy(yes) {
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  for (const button of $("presets").querySelectorAll("button")) button.disabled = yes;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value;
  $("question").value = "";
  ask(text);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("presets").addEventListener("click", (event) => event.target.dataset.ask && ask(event.target.dataset.ask));
$("fresh").addEventListener("click", () => {
  running?.abort();
  turns = [];
  sent = null;
  $("said").replaceChildren(node("p", { className: "empty", textContent: "A new conversation. The diagram goes along with your next question." }));
});
$("save").addEventListener("click", () => {
  const text = turns.map((t) => `**${t.role === "user" ? "You" : "Model"}:**${t.picture ? " (with the diagram)" : ""}\n\n${t.text}\n`).join("\n");
  const link = node("a", { href: URL.createObjectURL(new Blob([text], { type: "text/markdown" })), download: "conversation.md" });
  link.click();
});

// tabs, drawing, start

function choose(name) {
  for (const tab of ["upload", "draw"]) {
    $(tab).hidden = tab !== name;
    $(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
  }
}
$("tab-upload").addEventListener("click", () => choose("upload"));
$("tab-draw").addEventListener("click", () => choose("draw"));

const board = drawingBoard($("canvas"), $("name"), $("hint"), document.querySelector(".tools"));
$("undo").addEventListener("click", board.undo);
$("wipe").addEventListener("click", board.clear);
$("use").addEventListener("click", async () => {
  if (board.empty()) $("hint").textContent = "Draw at least one box first.";
  else give(await board.picture());
});

fetch("model")
  .then((response) => response.json())
  .then((m) => ($("model").textContent = `${m.name} · pictures are resized to ${m.min}–${m.max} tokens · context ${m.context} tokens`))
  .catch(() => ($("model").textContent = "the page's server does not answer"));
