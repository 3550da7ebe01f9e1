// The review: asks for images, sends answers. Text of objects comes escaped from the server.
"use strict";

const byId = (id) => document.getElementById(id);
const csrf = document.querySelector("meta[name=csrf]").content;
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
const client = sessionStorage.getItem("client") || newId();
sessionStorage.setItem("client", client);

let reviewer = document.body.dataset.reviewer;
let queue = sessionStorage.getItem("queue") || "review";
let item = null;
let busy = false;
let frame = 1;
let isShown = false;
let toastTimer = 0;

const viewer = new Viewer(byId("canvas"), (view) => {
  byId("readout").value = view.describe();
  if (view.needsFull && item && !item.full) loadImage(true);
});

async function send(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", "x-csrf-token": csrf },
      body: JSON.stringify({ client, queue, ...body }),
    });
  } catch {
    throw new Error("The review does not answer. Is 'dicom-router review' still running?");
  }
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    const answer = await response.json();
    if (response.ok) return answer;
    throw new Error(answer.problem);
  }
  throw new Error(response.status === 403
    ? "The review was started again: open the address that it has printed."
    : `The review has refused the request (${response.status}).`);
}

function toast(text, isBad = false) {
  const element = byId("toast");
  element.textContent = text;
  element.classList.toggle("bad", isBad);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { element.textContent = ""; }, isBad ? 12000 : 4000);
}

// Run one request at a time; keys and buttons do nothing meanwhile.
async function once(action) {
  if (busy) return;
  busy = true;
  for (const button of panelButtons()) button.disabled = true;
  try {
    await action();
  } catch (error) {
    toast(error.message, true);
    document.querySelector(".sent")?.classList.remove("sent");
  } finally {
    busy = false;
    for (const button of panelButtons()) button.disabled = false;
    enableAnswers();
  }
}

const panelButtons = () => document.querySelectorAll("#panel button");

// An image is answered about only after it was seen, or cannot be shown.
function enableAnswers() {
  for (const button of document.querySelectorAll(".answer")) button.disabled = busy || !isShown;
  byId("skip").disabled = busy || !item;
}

function showState(state) {
  for (const [name, count] of Object.entries(state.counts)) {
    document.querySelector(`[data-count="${CSS.escape(name)}"]`).textContent = count;
  }
  reviewer = state.reviewer;
  byId("reviewer").textContent = reviewer || "Nickname";
  const parts = [`${state.answered} answered by you`];
  if (state.waiting) parts.push(state.problem ? `${state.waiting} wait: ${state.problem}` : `${state.waiting} being applied`);
  byId("state").textContent = reviewer ? parts.join(" · ") : "";
  byId("state").classList.toggle("problem", Boolean(state.problem));
  for (const button of document.querySelectorAll(".queue")) {
    button.setAttribute("aria-pressed", String(button.dataset.queue === queue));
  }
}

function showItem(answer) {
  showState(answer);
  const hadFocus = byId("panel").contains(document.activeElement);
  item = answer.item;
  frame = 1;
  isShown = false;
  if (item) {
    byId("item").innerHTML = item.html;
    byId("frames").hidden = item.frames < 2;
    loadImage(false);
  } else {
    showDone(answer.with_others);
  }
  byId("item").scrollTop = 0;
  enableAnswers();
  if (hadFocus) (document.querySelector("#answers") || byId("undo")).focus({ preventScroll: true });
}

function showDone(withOthers) {
  viewer.clear();
  byId("frames").hidden = true;
  byId("canvas").setAttribute("aria-label", "No image");
  byId("image-message").textContent = "";
  const box = document.createElement("div");
  box.className = "done";
  const title = document.createElement("h2");
  title.textContent = "Nothing waits here";
  const text = document.createElement("p");
  text.className = "why";
  text.textContent = withOthers
    ? `Other reviewers are looking at the last images (${withOthers}).`
    : "Every image of this queue has an answer. New ones appear here when they arrive.";
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Look again";
  again.addEventListener("click", next);
  box.append(title, text, again);
  byId("item").replaceChildren(box);
}

async function loadImage(full) {
  const wanted = item;
  const wantedFrame = frame;
  const message = byId("image-message");
  item.full = full;
  if (!full) viewer.clear();
  message.textContent = full ? "Loading full size…" : "Loading…";
  try {
    const response = await fetch(`/image/${wanted.content}?frame=${wantedFrame}${full ? "&full" : ""}`);
    if (wanted !== item || wantedFrame !== frame) return;
    if (!response.ok) {
      const isJson = response.headers.get("content-type")?.startsWith("application/json");
      throw new Error(isJson ? (await response.json()).problem : "The image cannot be loaded.");
    }
    const properties = JSON.parse(response.headers.get("x-image"));
    const levels = new Uint16Array(await response.arrayBuffer());
    if (wanted !== item || wantedFrame !== frame) return;
    item.full = full || Math.max(properties.rows, properties.columns) >= properties.full;
    byId("full").disabled = item.full;
    message.textContent = "";
    viewer.show(properties, levels, full);
    byId("canvas").setAttribute("aria-label", `Radiograph, object ${item.key}. Arrow keys change the window.`);
    byId("canvas").dataset.shown = wanted.content;
  } catch (error) {
    if (wanted !== item) return;
    message.textContent = error instanceof TypeError ? "The image cannot be loaded; is the review still running?" : error.message;
    item.full = true;
  }
  byId("frame").value = `${wantedFrame} of ${item.frames}`;
  isShown = true;
  enableAnswers();
}

const next = () => once(async () => showItem(await send("/api/next", {})));

function answer(button) {
  if (!button || button.disabled || !isShown) return;
  button.classList.add("sent");
  const chosen = button.dataset.answer;
  item.labelIds ??= {};
  item.labelIds[chosen] ??= newId(); // sent again after an error, it is the same answer
  const { content, labelIds } = item;
  once(async () => {
    const stored = await send("/api/answer", { content, answer: chosen, label_id: labelIds[chosen] });
    toast(`Stored: ${stored.title}. U takes it back.`);
    showItem(await send("/api/next", {}));
  });
}

const skip = () => item && once(async () => showItem(await send("/api/skip", { content: item.content })));
const undo = () => once(async () => {
  showItem(await send("/api/undo", {}));
  toast("The last answer is taken back.");
});

function changeFrame(step) {
  if (!item || item.frames < 2) return;
  frame = Math.min(Math.max(frame + step, 1), item.frames);
  loadImage(false);
}

function askName() {
  byId("name").value = reviewer || localStorage.getItem("reviewer") || "";
  byId("name-problem").textContent = "";
  byId("name-dialog").showModal();
}

byId("name-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const state = await send("/api/reviewer", { reviewer: byId("name").value });
    localStorage.setItem("reviewer", state.reviewer);
    byId("name-dialog").close();
    showState(state);
    if (!item) next();
  } catch (error) {
    byId("name-problem").textContent = error.message;
  }
});
byId("name-dialog").addEventListener("cancel", (event) => { if (!reviewer) event.preventDefault(); });
byId("reviewer").addEventListener("click", askName);
byId("show-help").addEventListener("click", () => byId("help").showModal());
byId("item").addEventListener("click", (event) => answer(event.target.closest(".answer")));
byId("skip").addEventListener("click", skip);
byId("undo").addEventListener("click", undo);
byId("zoom-in").addEventListener("click", () => viewer.zoomBy(1.3));
byId("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.3));
byId("fit").addEventListener("click", () => viewer.reset());
byId("auto").addEventListener("click", () => viewer.autoWindow());
byId("full").addEventListener("click", () => item && !item.full && loadImage(true));
byId("invert").addEventListener("click", invert);
byId("previous-frame").addEventListener("click", () => changeFrame(-1));
byId("next-frame").addEventListener("click", () => changeFrame(1));
for (const [id, pans] of [["tool-window", false], ["tool-pan", true]]) {
  byId(id).addEventListener("click", () => {
    viewer.panning = pans;
    byId("canvas").classList.toggle("pan", pans);
    byId("tool-window").setAttribute("aria-pressed", String(!pans));
    byId("tool-pan").setAttribute("aria-pressed", String(pans));
  });
}
for (const button of document.querySelectorAll(".queue")) {
  button.addEventListener("click", () => {
    if (busy) return;
    queue = button.dataset.queue;
    sessionStorage.setItem("queue", queue);
    next();
  });
}

function invert() {
  viewer.invert();
  byId("invert").setAttribute("aria-pressed", String(viewer.inverted));
}

document.addEventListener("keydown", (event) => {
  const isModal = document.querySelector("dialog[open]");
  const isTyping = event.target.matches("input, textarea, select");
  if (isModal || isTyping || event.repeat || event.altKey || event.metaKey) return;
  if (event.ctrlKey) {
    if (event.key.toLowerCase() === "z") { event.preventDefault(); undo(); }
    return;
  }
  const button = document.querySelector(`.answer[data-key="${CSS.escape(event.key)}"]`);
  if (button) { event.preventDefault(); answer(button); return; }
  const action = {
    s: skip, u: undo, i: invert, r: () => viewer.reset(), a: () => viewer.autoWindow(), f: () => byId("full").click(),
    "+": () => viewer.zoomBy(1.3), "=": () => viewer.zoomBy(1.3), "-": () => viewer.zoomBy(1 / 1.3),
    "?": () => byId("help").showModal(),
  }[event.key.toLowerCase()];
  if (action) { event.preventDefault(); action(); }
});

setInterval(async () => {
  if (document.hidden || busy) return;
  try {
    const response = await fetch("/api/state");
    if (response.ok && !busy) showState(await response.json());
  } catch { /* the next answer reports it */ }
}, 5000);

if (reviewer) next();
else { showDone(0); byId("item").replaceChildren(); askName(); }
