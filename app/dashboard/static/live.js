// The live view: frames on a canvas, one by one; mouse, keys, wheel, touch and paste while the viewer has the control.

const view = document.querySelector("#live");
const canvas = document.querySelector("#screen");
const picture = canvas.getContext("2d");
const byId = (id) => document.getElementById(id);
const BUTTONS = ["left", "middle", "right"];
const RETRY_MS = 2000;

let socket = null;
let isMine = false;
let hasEnded = false;

function connect() {
  const url = new URL(view.dataset.socket, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(url);
  socket.binaryType = "blob";
  socket.addEventListener("message", (event) => {
    if (typeof event.data === "string") tell(JSON.parse(event.data));
    else draw(event.data);
  });
  socket.addEventListener("close", () => {
    setMine(false);
    byId("take").hidden = true;
    if (hasEnded) return;
    show("disconnected", "The connection has ended; it is tried again.");
    setTimeout(connect, RETRY_MS);
  });
}

// The next frame is sent when this one is drawn.
async function draw(blob) {
  try {
    const frame = await createImageBitmap(blob);
    if (canvas.width !== frame.width || canvas.height !== frame.height) {
      canvas.width = frame.width;
      canvas.height = frame.height;
    }
    picture.drawImage(frame, 0, 0);
    frame.close();
    canvas.dataset.frames = Number(canvas.dataset.frames ?? 0) + 1;
  } catch {
    // A frame that is no picture is passed over.
  }
  send({ type: "ack" });
}

function tell(message) {
  if (message.type === "end") {
    hasEnded = true;
    show("ended", message.text);
    return;
  }
  const { is_live: isLive, waits, stage, hint, controller, may_control: mayControl } = message;
  setMine(message.is_mine);
  byId("take").hidden = !(isLive && waits && mayControl && !controller && !isMine);
  const state = !isLive ? "waiting" : waits ? "waits for a person" : (stage ?? "running").replaceAll("_", " ");
  const who = isMine ? "You have the control." : controller ? `${controller} has the control; you watch.` : "Nobody has the control; you watch.";
  show(state, isLive ? who : hint);
  const rule = !isMine ? "You watch." : waits ? "What you type goes to the page while the picture has the focus." : "The service works now; the page takes nothing from you.";
  byId("live-hint").textContent = `${rule} Shift+Escape leaves the picture.`;
}

function show(state, sentence) {
  if (byId("live-state").textContent !== state) byId("live-state").textContent = state;
  if (byId("live-who").textContent !== sentence) byId("live-who").textContent = sentence;
}

function setMine(mine) {
  const isNew = mine && !isMine;
  isMine = mine;
  view.toggleAttribute("data-mine", mine);
  byId("release").hidden = byId("paste").hidden = !mine;
  if (isNew) canvas.focus();
}

function send(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

byId("take").addEventListener("click", () => send({ type: "take" }));
byId("release").addEventListener("click", () => send({ type: "release" }));

// Places are shares of the picture, which the service turns into places of the page.

function place(event) {
  const box = canvas.getBoundingClientRect();
  const border = canvas.clientLeft;
  const scale = Math.min(canvas.clientWidth / canvas.width, canvas.clientHeight / canvas.height);
  const within = (value) => Math.min(1, Math.max(0, value));
  return {
    x: within((event.clientX - box.left - border) / (canvas.width * scale)),
    y: within((event.clientY - box.top - border) / (canvas.height * scale)),
  };
}

const modifiers = (event) => (event.altKey ? 1 : 0) | (event.ctrlKey ? 2 : 0) | (event.metaKey ? 4 : 0) | (event.shiftKey ? 8 : 0);

function mouse(kind, event) {
  if (!isMine || event.pointerType === "touch") return;
  const button = kind === "move" ? "none" : BUTTONS[event.button];
  if (button === undefined) return;
  const clicks = kind === "move" ? 0 : Math.min(3, Math.max(1, kind === "down" ? presses(event) : pressed));
  send({ type: "mouse", event: kind, ...place(event), button, buttons: event.buttons & 7, clicks, modifiers: modifiers(event) });
}

// Pointer events do not count clicks.
let pressed = 0;
let lastPress = { time: 0, x: 0, y: 0 };
function presses(event) {
  const isNear = Math.hypot(event.clientX - lastPress.x, event.clientY - lastPress.y) < 6;
  pressed = isNear && event.timeStamp - lastPress.time < 500 ? pressed + 1 : 1;
  lastPress = { time: event.timeStamp, x: event.clientX, y: event.clientY };
  return pressed;
}

let move = null;
canvas.addEventListener("pointermove", (event) => {
  if (!isMine || event.pointerType === "touch") return;
  if (move === null) requestAnimationFrame(() => { mouse("move", move); move = null; });
  move = event;
});
canvas.addEventListener("pointerdown", (event) => {
  if (!isMine) return;
  canvas.setPointerCapture(event.pointerId);
  mouse("down", event);
});
canvas.addEventListener("pointerup", (event) => mouse("up", event));
canvas.addEventListener("contextmenu", (event) => { if (isMine) event.preventDefault(); });
canvas.addEventListener("wheel", (event) => {
  if (!isMine) return;
  event.preventDefault();
  const unit = [1, 16, 400][event.deltaMode];
  const limited = (value) => Math.min(5000, Math.max(-5000, value * unit));
  send({ type: "wheel", ...place(event), dx: limited(event.deltaX), dy: limited(event.deltaY), modifiers: modifiers(event) });
}, { passive: false });

for (const kind of ["start", "move", "end", "cancel"]) {
  canvas.addEventListener(`touch${kind}`, (event) => {
    if (!isMine) return;
    event.preventDefault();
    canvas.focus();
    const points = [...event.touches].slice(0, 5).map((touch, id) => ({ id, ...place(touch) }));
    // Fingers that stay down go on; the page hears of an end when the last one is lifted.
    const isOver = (kind === "end" || kind === "cancel") && points.length === 0;
    if (isOver || kind === "start" || kind === "move") send({ type: "touch", event: kind, points: isOver ? [] : points, modifiers: modifiers(event) });
  }, { passive: false });
}

function key(kind, event) {
  if (!isMine) return;
  if (event.key === "Escape" && event.shiftKey) {
    if (kind === "down") (byId("release").hidden ? byId("main") : byId("release")).focus();
    event.preventDefault();
    return;
  }
  const isPaste = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "v";
  if (isPaste || event.isComposing || event.key === "Process") return;
  event.preventDefault();
  // AltGr writes characters, though it looks like Ctrl and Alt.
  const held = event.getModifierState("AltGraph") ? modifiers(event) & 8 : modifiers(event);
  send({ type: "key", event: kind, key: event.key, code: event.code.slice(0, 20), modifiers: held });
}
const KEYS = new Set(["Backspace", "Tab", "Enter", "Shift", "Control", "Alt", "Escape", "PageUp", "PageDown", "End", "Home", "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "Delete", "Meta"]);
const isSent = (event) => [...event.key].length === 1 || KEYS.has(event.key);
canvas.addEventListener("keydown", (event) => { if (isSent(event)) key("down", event); });
canvas.addEventListener("keyup", (event) => { if (isSent(event)) key("up", event); });

const write = (text) => { if (isMine && text) send({ type: "text", text: text.slice(0, 10000) }); };
document.addEventListener("paste", (event) => {
  if (document.activeElement !== canvas || !isMine) return;
  event.preventDefault();
  write(event.clipboardData.getData("text/plain"));
});
byId("paste").addEventListener("submit", (event) => {
  event.preventDefault();
  write(byId("paste-text").value);
  byId("paste-text").value = "";
  canvas.focus();
});

connect();
