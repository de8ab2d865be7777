// The consent page behaves as the real one's single-page app: a shell first, data later, one click, then a spinner.
"use strict";

const root = document.getElementById("root");
const { ticket, api } = root.dataset;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const brand = () => element("p", { class: "brand" }, "Sandbox provider");
const spinner = () => element("div", { class: "spinner", role: "progressbar", "aria-label": "Loading" });

const authorize = element(
  "button",
  { class: "primary", "data-testid": "OAuth_Consent_Button", disabled: "", onclick: () => decide("authorize") },
  "Authorize app",
);
const decline = element("button", { class: "quiet", onclick: () => decide("decline") }, "Cancel");

function showShell() {
  root.replaceChildren(brand(), element("div", { id: "details" }, spinner()), authorize, decline);
}

function showDetails(data) {
  document.getElementById("details").replaceChildren(
    element("h1", {}, element("strong", {}, data.app), " wants to access your account."),
    ...(data.handle ? [userCell(data)] : []),
    element("h2", {}, "Things this app can view and do"),
    element("ul", {}, ...data.permissions.map((text) => element("li", {}, text))),
  );
  authorize.disabled = false;
  if (data.covered) root.append(element("div", { style: "position: fixed; inset: 0" }));
}

function userCell(data) {
  return element(
    "div",
    { class: "user", "data-testid": "UserCell" },
    element("span", { class: "avatar", "aria-hidden": "true" }, data.name.slice(0, 1)),
    element("span", {}, element("b", {}, data.name), element("span", { class: "handle" }, `@${data.handle}`)),
  );
}

function showError(detail) {
  root.replaceChildren(
    brand(),
    element("h1", {}, "Something went wrong"),
    element("p", { class: "text", "data-testid": "OAuth_Consent_Error_Detail" }, detail),
  );
}

async function ask(url, options) {
  const response = await fetch(url, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error_description ?? "Try again later.");
  return body;
}

async function decide(decision) {
  root.replaceChildren(brand(), spinner());
  try {
    const body = JSON.stringify({ ticket, decision });
    const answer = await ask(api, { method: "POST", headers: { "content-type": "application/json" }, body });
    location.assign(answer.location);
  } catch (error) {
    showError(error.message);
  }
}

async function main() {
  showShell();
  try {
    const data = await ask(`${api}?ticket=${encodeURIComponent(ticket)}`);
    if (data.ready) showDetails(data);
  } catch (error) {
    showError(error.message);
  }
}

main();
