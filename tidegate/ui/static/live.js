// Keeps the page as what runs, without a reload, and asks agents for what a person wants.
// The token comes in the address after `#`, which is never sent, and stays in this browser, for this origin.
"use strict";

const KEY = "tidegate-token";
const PERIOD = 1000; // ms between two looks
const said = document.getElementById("said");
const dialog = document.getElementById("ask");
let mark = "";
let lost = 0;

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  localStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname + location.search);
}

function mode() {
  const acts = Boolean(localStorage.getItem(KEY));
  document.body.classList.toggle("readonly", !acts);
  document.getElementById("mode").textContent = acts ? "may act" : "read only";
}

function say(text, stays) {
  said.textContent = text;
  said.hidden = !text;
  clearTimeout(say.timer);
  if (text && !stays) say.timer = setTimeout(() => say(""), 8000);
}

// ---------------------------------------------------------------- live
// A part that did not change is left alone, so that focus, an open menu and a screen reader's place stay.
function merge(old, fresh) {
  for (const part of [...old.children]) {
    if (part.id && !fresh.querySelector("#" + CSS.escape(part.id))) part.remove();
  }
  let before = null;
  for (const part of [...fresh.children]) {
    const mine = part.id && old.querySelector(":scope > #" + CSS.escape(part.id));
    if (!mine) {
      old.insertBefore(part, before ? before.nextSibling : old.firstChild);
      before = part;
      continue;
    }
    if (part.dataset.part === "shell") merge(mine.querySelector(".cards"), part.querySelector(".cards"));
    else if (mine.outerHTML !== part.outerHTML) replace(mine, part);
    before = document.getElementById(part.id);
  }
}

function replace(mine, part) {
  const focus = mine.contains(document.activeElement) ? document.activeElement.id : "";
  const phase = part.dataset.phase;
  if (phase && phase !== mine.dataset.phase) {
    part.classList.add("fresh");
    part.addEventListener("animationend", () => part.classList.remove("fresh"), { once: true });
    say(part.dataset.name + ": " + phase);
  }
  part.querySelectorAll("details").forEach((fold, place) => {
    const was = mine.querySelectorAll("details")[place];
    if (was) fold.open = was.open;
  });
  mine.replaceWith(part);
  if (focus) (document.getElementById(focus) || part.querySelector("h3") || document.getElementById("main")).focus();
}

async function look() {
  const live = document.getElementById("live");
  if (!live || !live.dataset.live) return;
  if (!document.hidden) {
    try {
      const answer = await fetch(live.dataset.live + "?seen=" + mark, { headers: { accept: "text/html" } });
      if (answer.status === 200) {
        const text = await answer.text();
        mark = answer.headers.get("x-tidegate-mark") || "";
        const page = new DOMParser().parseFromString(text, "text/html");
        if (!dialog.open) merge(live, page.body);
        else mark = "";
      } else if (answer.status !== 204) throw new Error(String(answer.status));
      if (lost) say("");
      lost = 0;
    } catch {
      lost += 1;
      if (lost > 2) say("This page is not up to date: `tidegate ui` does not answer.", true);
    }
  }
  setTimeout(look, Number(live.dataset.period) || PERIOD);
}

// ---------------------------------------------------------------- asking
const WHAT = {
  approve: (d) => ["Approve", `${d.model} in ${d.environment} may go on. It waits: ${d.waits}`],
  pause: (d) => ["Pause", `${d.model} in ${d.environment} keeps its weight, and is watched, until it is resumed.`],
  resume: (d) => ["Resume", `${d.model} in ${d.environment} goes on with its steps.`],
  abort: (d) => ["Abort", `${d.release} gets no more requests in ${d.environment}; they go back to stable at once.`],
  rollback: (d) => ["Roll back", `${d.model} in ${d.environment} goes back from ${d.release} to the release before it at once, and Git is told.`],
};
let asked = null;

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-verb]");
  if (!button) return;
  asked = { ...button.dataset };
  const [verb, what] = WHAT[asked.verb](asked);
  document.getElementById("ask-title").textContent = `${verb} ${asked.model}?`;
  document.getElementById("ask-what").textContent = what;
  document.getElementById("ask-reason").value = "";
  const go = document.getElementById("ask-go");
  go.textContent = verb;
  go.classList.toggle("grave", asked.verb === "abort" || asked.verb === "rollback");
  dialog.showModal();
  go.focus();
});

document.getElementById("ask-not").addEventListener("click", () => dialog.close());

dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  dialog.close();
  const { verb, plane, environment, model } = asked;
  const reason = document.getElementById("ask-reason").value;
  say(`Asking the agent to ${verb} ${model}…`, true);
  try {
    const answer = await fetch("/ask", {
      method: "POST",
      headers: { "content-type": "application/json", "x-tidegate-token": localStorage.getItem(KEY) || "" },
      body: JSON.stringify({ verb, plane, environment, model, reason }),
    });
    const told = await answer.json();
    if (answer.status === 401) {
      localStorage.removeItem(KEY);
      mode();
    }
    const refused = answer.status === 409 ? "Refused: " : "";
    say(refused + (told.text || told.error), !answer.ok);
  } catch {
    say("It was not asked: `tidegate ui` does not answer.", true);
  }
});

mode();
look();
