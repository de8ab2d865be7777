"use strict";
// Times in the reader's zone, the focus after an action, and the one-time link. Everything else works without a script.

const SHORT = new Intl.DateTimeFormat(undefined, {
  day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const LONG = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const YEAR = new Intl.DateTimeFormat(undefined, {
  day: "2-digit", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});

function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([data-shown])")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const isOfThisYear = moment.getFullYear() === new Date().getFullYear();
    element.textContent = (isOfThisYear ? SHORT : YEAR).format(moment);
    element.title = `${LONG.format(moment)}\n${element.dateTime}`;
    element.dataset.shown = "";
  }
}

// Fields for times hold UTC as the server writes them; the reader sees and writes their own time.
function showTimeFields(root) {
  for (const field of root.querySelectorAll("input[data-utc]")) {
    if (field.value) {
      const moment = new Date(`${field.value}Z`);
      const local = new Date(moment.getTime() - moment.getTimezoneOffset() * 60000);
      field.value = local.toISOString().slice(0, 19);
    }
    delete field.dataset.utc;
    field.dataset.local = "";
    const zone = field.closest("label").querySelector("[data-zone]");
    if (zone) zone.textContent = "(your time)";
  }
}

document.addEventListener("formdata", (event) => {
  for (const field of event.target.querySelectorAll("input[data-local]")) {
    if (field.value) event.formData.set(field.name, new Date(field.value).toISOString());
  }
});

function show(root) {
  showTimes(root);
  showTimeFields(root);
  root.querySelector("[data-focus]")?.focus({ preventScroll: false });
}

document.addEventListener("htmx:load", (event) => show(event.target));
document.addEventListener("htmx:afterSwap", () => { document.querySelector("#problem").hidden = false; });
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.requestConfig.verb !== "get") document.querySelector("#problem").replaceChildren();
});

// The ticket stands behind the # of the address, which browsers send to nobody; it is taken out of it at once.
const enter = document.querySelector("#enter");
if (enter && location.hash.length > 1) {
  enter.elements.ticket.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  enter.submit();
} else if (enter) {
  enter.hidden = true;
  document.querySelector("#no-ticket").hidden = false;
}
show(document);
