// saerec's page: asks the server again after each click and each pause in typing, and swaps the parts that changed.
// Without this file the page works as a plain form. Apache-2.0, like saerec.
"use strict";
const form = document.getElementById("visit"), q = document.getElementById("q"), said = document.getElementById("said");
let queue = Promise.resolve(), pause;

// One tab stop for each row of stars: the rating given, else the first star.
function rove(root) {
  for (const row of root.querySelectorAll(".stars")) {
    const stars = [...row.querySelectorAll("button")], chosen = stars.find(b => b.getAttribute("aria-pressed") === "true") ?? stars[0];
    for (const b of stars) b.tabIndex = b === chosen ? 0 : -1;
  }
}

function say(text, fault) {
  said.textContent = text;
  said.classList.toggle("unseen", !fault);
}

// Where the focus is, and how to find that place, or the next best, after a swap.
function here() {
  const e = document.activeElement, film = e.closest(".film");
  return { id: e.id, part: e.closest("[data-part]")?.id, at: film ? [...film.parentElement.children].indexOf(film) : 0 };
}
function back({ id, part, at }) {
  if (!part || document.activeElement !== document.body) return;
  const films = [...document.getElementById(part).querySelectorAll(".film")], film = films[Math.min(at, films.length - 1)];
  const e = (id && document.getElementById(id)) || film?.querySelector("button[tabindex='0'], button") || q;
  e.focus({ preventScroll: Boolean(id && document.getElementById(id)) });
}

function swap(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html"), place = here();
  for (const part of fresh.querySelectorAll("[data-part]")) {
    rove(part);
    document.getElementById(part.id).replaceWith(part);
  }
  say(fresh.getElementById("said").textContent, false);
  back(place);
  const url = document.getElementById("mine").dataset.url;
  if (url !== location.pathname + location.search) history.pushState(null, "", url);
  show();
}

// Requests go one after another, so that a quick second click knows of the first.
function ask(extra, wanted = () => true) {
  queue = queue.then(async () => {
    if (!wanted()) return;
    const params = new URLSearchParams(new FormData(form));
    for (const [k, v] of Object.entries(extra)) params.set(k, v);
    try {
      const answer = await fetch("/parts?" + params);
      if (answer.ok) swap(await answer.text());
      else say((await answer.json()).error, true);
    } catch { say("The server does not answer; is saerec serve still running?", true); }
  });
}

// A file of ratings goes to the server as it is, and comes back as a part of the address.
function bring(file) {
  queue = queue.then(async () => {
    const params = new URLSearchParams({ name: file.name, r: form.elements.r.value });
    try {
      const answer = await fetch("/own?" + params, { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
      const told = await answer.json();
      if (!answer.ok) return say(told.error, true);
      form.elements.r.value = told.r;
      ask({});
      queue = queue.then(() => say(told.told, true));
    } catch { say("The file could not be read; is saerec serve still running?", true); }
  });
}

function search() {
  clearTimeout(pause);
  const typed = q.value;
  ask({ only: "found" }, () => q.value === typed);
}

form.addEventListener("submit", e => {
  e.preventDefault();
  if (e.submitter?.name) ask({ [e.submitter.name]: e.submitter.value });
  else search();
});
form.addEventListener("change", e => {
  if (e.target.id !== "file") { if (e.target !== q) ask({}); }
  else if (e.target.files.length) { bring(e.target.files[0]); e.target.value = ""; }
});
q.addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(search, 120); });
addEventListener("popstate", () => location.reload());

// Arrows go along the stars and from film to film, a digit rates, Escape leads back to the search.
function star(film, at) {
  const stars = film?.querySelectorAll(".stars button");
  stars?.[Math.min(Math.max(at, 0), stars.length - 1)].focus();
}
form.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const film = e.target.closest(".film"), row = e.target.closest(".stars");
  if (e.target === q && e.key === "ArrowDown") star(document.querySelector("#found .film"), 0);
  else if (film && e.key === "Escape") q.focus();
  else if (row) {
    const stars = [...row.querySelectorAll("button")], at = stars.indexOf(e.target), n = stars.length;
    const moves = { ArrowRight: [film, at + 1], ArrowLeft: [film, at - 1], Home: [film, 0], End: [film, n - 1], ArrowDown: [film.nextElementSibling, at], ArrowUp: [film.previousElementSibling, at] };
    if (e.key in moves) star(...moves[e.key]);
    else if (/^[1-9]$/.test(e.key) && stars[e.key - 1]) stars[e.key - 1].click();
    else return;
  } else return;
  e.preventDefault();
});

// A button that copies the address: all that a shared list needs.
function show() {
  const copy = document.getElementById("copy");
  if (copy) copy.hidden = false;
}
form.addEventListener("click", async e => {
  if (e.target.id !== "copy") return;
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link to this list is copied.", true);
  } catch { say("Copy the address of this page: it holds the list.", true); }
});

rove(document);
document.getElementById("own").hidden = false;
show();
