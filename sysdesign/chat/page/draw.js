// A drawing board: boxes with names and arrows between them -> a PNG that looks like a plain architecture diagram.

const INK = "#1c2330";

export function drawingBoard(canvas, nameInput, hint, tools) {
  const pen = canvas.getContext("2d");
  let boxes = [], arrows = [], past = [], tool = "box", drag = null, naming = null;

  const hints = {
    box: "Drag to draw a box, then type its name.",
    arrow: "Drag from one box to another.",
    move: "Drag a box; double-click it to rename it.",
  };
  for (const button of tools.querySelectorAll("[data-tool]")) {
    button.addEventListener("click", () => {
      tool = button.dataset.tool;
      hint.textContent = hints[tool];
      for (const other of tools.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", String(other === button));
    });
  }

  const remember = () => past.push(JSON.stringify([boxes, arrows]));
  const at = (event) => {
    const place = canvas.getBoundingClientRect();
    return { x: ((event.clientX - place.left) / place.width) * canvas.width, y: ((event.clientY - place.top) / place.height) * canvas.height };
  };
  const under = (p) => boxes.findLastIndex((b) => p.x >= b.x && p.x <= b.x + b.w && p.y >= b.y && p.y <= b.y + b.h);
  const centre = (b) => ({ x: b.x + b.w / 2, y: b.y + b.h / 2 });

  function border(from, to) { // where the line between two centres leaves the box `from`
    const a = centre(from), b = centre(to), dx = b.x - a.x, dy = b.y - a.y;
    const t = Math.min(dx ? from.w / 2 / Math.abs(dx) : Infinity, dy ? from.h / 2 / Math.abs(dy) : Infinity);
    return Number.isFinite(t) ? { x: a.x + dx * Math.min(t, 1), y: a.y + dy * Math.min(t, 1) } : a;
  }

  function arrow(a, b) {
    const angle = Math.atan2(b.y - a.y, b.x - a.x);
    pen.beginPath();
    pen.moveTo(a.x, a.y);
    pen.lineTo(b.x, b.y);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(b.x, b.y);
    for (const turn of [2.7, -2.7]) pen.lineTo(b.x + 18 * Math.cos(angle + turn), b.y + 18 * Math.sin(angle + turn));
    pen.fill();
  }

  function paint() {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.strokeStyle = pen.fillStyle = INK;
    pen.lineWidth = 3;
    for (const [from, to] of arrows) arrow(border(boxes[from], boxes[to]), border(boxes[to], boxes[from]));
    for (const box of boxes) {
      pen.fillStyle = "#fff";
      pen.beginPath();
      pen.roundRect(box.x, box.y, box.w, box.h, 12);
      pen.fill();
      pen.stroke();
      pen.fillStyle = INK;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.font = "28px sans-serif";
      const size = Math.min(28, (28 * (box.w - 16)) / Math.max(1, pen.measureText(box.name).width));
      pen.font = `${size}px sans-serif`;
      pen.fillText(box.name, box.x + box.w / 2, box.y + box.h / 2);
    }
    if (drag?.kind === "box") pen.strokeRect(drag.x, drag.y, drag.to.x - drag.x, drag.to.y - drag.y);
    if (drag?.kind === "arrow") arrow(centre(boxes[drag.from]), drag.to);
  }

  function ask(index) {
    naming = index;
    const middle = centre(boxes[index]);
    nameInput.style.left = `${(middle.x / canvas.width) * 100}%`;
    nameInput.style.top = `${(middle.y / canvas.height) * 100}%`;
    nameInput.value = boxes[index].name;
    nameInput.hidden = false;
    nameInput.focus();
    nameInput.select();
  }
  function named() {
    if (naming === null) return;
    boxes[naming].name = nameInput.value.trim() || boxes[naming].name || `Box ${naming + 1}`;
    naming = null;
    nameInput.hidden = true;
    paint();
  }
  nameInput.addEventListener("keydown", (event) => (event.key === "Enter" || event.key === "Escape") && named());
  nameInput.addEventListener("blur", named);

  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault(); // the name field keeps its text until `named` has read it
    named();
    const p = at(event), hit = under(p);
    if (tool === "box") drag = { kind: "box", ...p, to: p };
    else if (hit >= 0) drag = tool === "arrow" ? { kind: "arrow", from: hit, to: p } : { kind: "move", box: hit, x: p.x, y: p.y };
    if (drag?.kind === "move") remember();
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.to = at(event);
    if (drag.kind === "move") {
      boxes[drag.box].x += drag.to.x - drag.x;
      boxes[drag.box].y += drag.to.y - drag.y;
      [drag.x, drag.y] = [drag.to.x, drag.to.y];
    }
    paint();
  });
  canvas.addEventListener("pointerup", (event) => {
    const done = drag, p = at(event);
    drag = null;
    if (done?.kind === "box" && Math.abs(p.x - done.x) > 30 && Math.abs(p.y - done.y) > 20) {
      remember();
      boxes.push({ x: Math.min(p.x, done.x), y: Math.min(p.y, done.y), w: Math.abs(p.x - done.x), h: Math.abs(p.y - done.y), name: "" });
      ask(boxes.length - 1);
    } else if (done?.kind === "arrow") {
      const hit = under(p);
      if (hit >= 0 && hit !== done.from) {
        remember();
        arrows.push([done.from, hit]);
      }
    }
    paint();
  });
  canvas.addEventListener("dblclick", (event) => under(at(event)) >= 0 && ask(under(at(event))));

  paint();
  return {
    undo() {
      if (past.length) [boxes, arrows] = JSON.parse(past.pop());
      paint();
    },
    clear() {
      remember();
      boxes = [];
      arrows = [];
      paint();
    },
    empty: () => boxes.length === 0,
    picture() {
      named();
      return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    },
  };
}
