"use strict";

const $ = (id) => document.getElementById(id);
const INTERVAL = 500;
// A browser opens six connections to a server. Two remain for updates of the list.
const AT_ONCE = 4;

/** The number of responses of each process at the last update, by the number of the process. */
let known = new Map();
/** The processes that have responded since a button was pressed. */
let answered = new Set();
/** What the table shows. It is redrawn only after a change, so that a selection in it survives. */
let shown = "";
let busy = false;

function row(process) {
  const row = document.createElement("tr");
  if (answered.has(process.number)) row.className = "answered";
  for (const text of [process.id, process.from, process.responses]) row.insertCell().textContent = text;
  return row;
}

function show({ processes, waiting }) {
  for (const process of processes) {
    if (process.responses > (known.get(process.number) ?? 0)) answered.add(process.number);
  }
  known = new Map(processes.map((process) => [process.number, process.responses]));
  const now = JSON.stringify([processes, [...answered]]);
  if (now !== shown) $("processes").replaceChildren(...processes.map(row));
  shown = now;
  const count = processes.length === 1 ? "1 process" : `${processes.length} processes`;
  const queue = waiting === 1 ? "1 request is" : `${waiting} requests are`;
  setState(`${count} connected; ${queue} waiting.`);
}

function setState(state) {
  if ($("state").textContent !== state) $("state").textContent = state;
}

async function update() {
  try {
    const response = await fetch("/demo/processes", { cache: "no-store" });
    show(await response.json());
  } catch {
    $("processes").replaceChildren();
    shown = "";
    setState("The server does not respond.");
  }
}

async function watch() {
  if (!document.hidden) await update();
  setTimeout(watch, INTERVAL);
}

async function ask(number) {
  try {
    const response = await fetch(`/hello?${number}`, { cache: "no-store" });
    const text = (await response.text()).trim().split("\n", 1)[0].slice(0, 100);
    return response.ok ? text : `status ${response.status}`;
  } catch {
    return "no response";
  }
}

/** Sends requests, a few at a time, and shows how often each response came. */
async function send(count) {
  if (busy) return;
  setBusy(true);
  answered = new Set();
  const since = performance.now();
  const responses = new Map();
  let sent = 0;
  const asking = Array.from({ length: Math.min(AT_ONCE, count) }, async () => {
    while (sent < count) {
      sent += 1;
      const text = await ask(sent);
      responses.set(text, (responses.get(text) ?? 0) + 1);
    }
  });
  await Promise.all(asking);
  const milliseconds = Math.round(performance.now() - since);
  const lines = [...responses].sort().map(([text, times]) => (count === 1 ? text : `${times} times: ${text}`));
  lines.push(`${count === 1 ? "1 request" : `${count} requests`} in ${milliseconds} ms`);
  $("answer").replaceChildren(...lines.map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
  setBusy(false);
  await update();
}

/** Marks the buttons as disabled. (`disabled` itself would take the keyboard's focus from them.) */
function setBusy(value) {
  busy = value;
  for (const id of ["one", "fifty"]) $(id).setAttribute("aria-disabled", value);
}

$("one").addEventListener("click", () => send(1));
$("fifty").addEventListener("click", () => send(50));
watch();
