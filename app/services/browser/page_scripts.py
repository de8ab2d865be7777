"""The scripts that read the provider's page, in the page: what it shows, whether a button can be pressed, and where.

Each gets `script_rules` as its first argument. They only read; what is pressed is pressed by the driver.
"""

from typing import Final

_READ: Final = r"""
const rules = arguments[0];
const LONGEST_TEXT = 200000, LONGEST_DETAIL = 5000, MOST_ELEMENTS = 5000;
const find = (selector, root) => {
  if (!/^[(]|^\/\//.test(selector)) return [...root.querySelectorAll(selector)];
  if (root !== document) return [];
  const found = document.evaluate(selector, document, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE, null);
  return [...Array(found.snapshotLength).keys()].map((i) => found.snapshotItem(i));
};
const roots = () => [document, ...(rules.shadow_host ? find(rules.shadow_host, document) : [])
  .map((host) => host.shadowRoot || host).filter((root) => root instanceof DocumentFragment || root === document)];
const all = (selector) => (selector ? roots().flatMap((root) => find(selector, root)) : []);
const textOf = (element) => (element.innerText || '').slice(0, LONGEST_TEXT);

// Where the page is, and where pressing something leads.
const matches = (pattern, place) => new RegExp(pattern).test(place);
const isOfProvider = (url) => rules.places.origins.some((pattern) => matches(pattern, url.origin + '/'));
const consentDepth = (url) => Math.max(-1, ...rules.places.consent
  .filter(([pattern]) => matches(pattern, url.origin + url.pathname)).map(([, length]) => length));
const here = () => (rules.in_frame ? {origin: self.origin, pathname: location.pathname} : location);
const isAtConsent = () => (rules.in_frame ? isOfProvider(here()) : consentDepth(location) >= 0);
const attribute = (element, name) => Element.prototype.getAttribute.call(element, name);  // forms hide their own
const formOf = (element) => element.form || element.closest('form');
const target = (element) => {
  const form = formOf(element), link = element.closest('a[href]');
  const address = form ? attribute(element, 'formaction') || attribute(form, 'action') || ''
    : link ? attribute(link, 'href') : null;
  if (address === null || /^\s*javascript:/i.test(address)) return null;
  try {
    return address ? new URL(address, document.baseURI) : new URL(location.href);
  } catch {
    return new URL('about:invalid');
  }
};
const isTyped = (field) => field.matches('textarea, input:not([type]), input[type=text], input[type=password], '
  + 'input[type=email], input[type=tel], input[type=number], input[type=search], input[type=url]');
const misleads = (element, isGuess) => {  // why it must not be pressed
  const url = target(element), form = formOf(element);
  if (isGuess && !(form && url)) return 'it is in no form that leads to the consent page';
  if (url && !(isGuess && !rules.in_frame ? consentDepth(url) >= 0 : isOfProvider(url)))
    return `it leads to ${url.host}${url.pathname}, which is not the consent page`;
  const fields = (form) => [...Element.prototype.querySelectorAll.call(form, 'input, textarea')];
  const asks = isGuess && fields(form).some((f) => isTyped(f) && visible(f));
  return asks ? 'its form asks for something to be typed' : '';
};

// What can be seen and pressed.
const isLaidOut = (element) => element.getClientRects().length > 0;
const visible = (element) => isLaidOut(element) && (!element.checkVisibility || element.checkVisibility(
  {opacityProperty: true, visibilityProperty: true, checkOpacity: true, checkVisibilityCSS: true}));
const isInside = (element, selector) => {
  for (let each = element; each; each = each.getRootNode().host) if (each.closest(selector)) return true;
  return false;
};
const obstacle = (element) => {
  if (!isLaidOut(element)) return 'it is not displayed';
  if (!visible(element)) return 'it is hidden';
  const box = element.getBoundingClientRect();
  if (!(box.width && box.height)) return 'it has no size';
  if (element.matches(':disabled') || isInside(element, '[aria-disabled="true"]')) return 'it is disabled';
  if (isInside(element, '[inert]')) return 'it is inert';
  return getComputedStyle(element).pointerEvents === 'none' ? 'it takes no pointer events' : '';
};
const usable = (selectors) => selectors.flatMap(all).find((element) => !obstacle(element));
const shown = (selectors) => selectors.flatMap(all).find(visible);
const describe = (element) => {
  const clean = (text) => String(text || '').replace(/[^\w-]/g, '').slice(0, 40);
  const classes = [...element.classList].slice(0, 3).map(clean).filter(Boolean);
  return [clean(element.localName), element.id && '#' + clean(attribute(element, 'id')), ...classes.map((c) => '.' + c)]
    .filter(Boolean).join('');
};
"""

_LOOK: Final = (
    _READ
    + r"""
const wanted = (kind) => !rules.ignore.includes(kind);
const linesOf = (element) => textOf(element).split('\n').map((line) => line.trim().toLowerCase()).filter(Boolean);
const names = (element) => [element.innerText, element.value, element.getAttribute('aria-label'),
  ...Object.values(element.dataset), ...[...(element.labels || [])].map((label) => label.innerText)]
  .filter((name) => typeof name === 'string' && name.trim()).map((name) => name.trim().toLowerCase());
const words = (name) => name.split(/[\s,;()<>]+/);
const isAccount = (name) => name === rules.account || name === '@' + rules.account;
const isAsked = [
  (element) => names(element).some(isAccount),
  (element) => isAccount(linesOf(element).at(-1)),
  (element) => linesOf(element).some(isAccount),  // a display name may be on another
  (element) => isAccount(names(element).flatMap(words).filter((word) => word.startsWith('@')).at(-1)),
  (element) => names(element).some((name) => words(name).includes('@' + rules.account)),
  (element) => names(element).some((name) => words(name).includes(rules.account)),
];
const chooser = (choices) => {
  const named = isAsked.map((test) => choices.filter(test));
  const asked = named.find((found) => found.length) || [];  // by the clearest name that any of them has
  const button = asked.length === 1 ? asked[0] : null;
  const reason = button && misleads(button);
  if (reason) return {kind: 'unknown', hasButton: true, reason};
  return {kind: 'chooser', button, detail: choices.map((c) => names(c)[0] || '?').join(', ')};
};

// Text that users write is no fact: an app's name, a display name.
const said = (texts) => {
  if (!texts.length || !document.body) return undefined;
  const written = [...rules.user_texts, rules.signed_in_handle, rules.account_choices].flatMap(all).slice(0, 100)
    .map((element) => element.closest('label') || element);
  const outermost = [...new Set(written)].filter((e) => !written.some((other) => other !== e && other.contains(e)));
  const count = (text, part) => text.toLowerCase().split(part).length - 1;
  const page = textOf(document.body);
  return texts.find((part) => count(page, part) > outermost.reduce((sum, e) => sum + count(textOf(e), part), 0));
};
const handlesIn = (text) => [...text.matchAll(new RegExp(rules.handle_pattern, 'g'))].map((m) => m[1]).filter(Boolean);
const signedIn = () => {
  const cell = shown([rules.signed_in_handle]);
  if (!cell) return null;
  const text = textOf(cell);
  const asked = handlesIn(text).find((handle) => handle.toLowerCase() === rules.account);
  if (asked) return asked;
  const whole = new RegExp(`^(?:${rules.handle_pattern})$`);
  const own = [...cell.querySelectorAll('*')].slice(0, 500).filter((e) => !e.children.length)
    .map((e) => textOf(e).trim().match(whole)).filter(Boolean);
  if (own.length) return own.at(-1)[1] || null;
  return text.split('\n').map(handlesIn).filter((found) => found.length).at(-1)?.at(-1) || null;
};

const look = (settled) => {
  const page = `${performance.timeOrigin}|${location.pathname}${location.search}`;
  return {page, elsewhere: !isAtConsent(), ofProvider: isOfProvider(here()), ...lookAt(settled)};
};
const lookAt = (settled) => {
  if (!rules.in_frame && !/^https?:$/.test(location.protocol)) return {kind: 'unknown', elsewhere: false};
  const path = location.pathname, depth = rules.in_frame ? -1 : consentDepth(location);
  const elsewhere = {kind: settled ? 'elsewhere' : 'unknown'};
  if (!isOfProvider(here())) return elsewhere;
  // Of a prefix and the consent page's own path the longer one tells: /login, /login/oauth/authorize.
  const under = (prefix) => prefix.length >= depth && (path === prefix || path.startsWith(prefix + '/'));
  if (rules.locked_paths.some(under)) return {kind: 'locked'};
  if (rules.human_check_paths.some(under)) return {kind: 'human_check'};
  if (rules.login_paths.some(under) || shown(rules.login_marks)) return {kind: 'login'};
  const error = shown(rules.error_details);
  if (error) return {kind: 'error', detail: textOf(error).slice(0, LONGEST_DETAIL)};
  const own = rules.consent_buttons.flatMap(all);
  if (!(isAtConsent() && own.some(visible)) && said(rules.human_check_texts)) return {kind: 'human_check'};
  const errorText = said(rules.error_texts);
  if (errorText) return {kind: 'error', detail: errorText};
  if (rules.home_paths.includes(path) && wanted('home')) return {kind: 'home'};
  const choices = all(rules.account_choices).filter(isLaidOut);
  const banner = usable(rules.banner_buttons);
  if (banner && wanted('banner') && (isAtConsent() || choices.length) && !misleads(banner))
    return {kind: 'banner', button: banner};
  if (choices.length) return wanted('chooser') ? chooser(choices) : {kind: 'unknown'};
  if (!isAtConsent()) return {...elsewhere, hasButton: own.some(visible)};
  const frame = !rules.in_frame && all(rules.frame).find(isLaidOut);
  return frame ? {kind: 'frame', button: frame} : consent(own, settled);
};
const consent = (own, settled) => {
  const handle = signedIn();
  const isUnclear = rules.signed_in_handle && !handle && !settled;  // the page is still being built
  const isTicked = (box) => box.checked || box.getAttribute('aria-checked') === 'true';
  const box = rules.checkboxes.flatMap(all).find((each) => !isTicked(each));
  const tick = box && [box, ...(box.labels || [])].find((each) => !obstacle(each) && !misleads(each));
  if (tick && wanted('checkbox')) return isUnclear ? {kind: 'unknown', hasButton: true}
    : {kind: 'checkbox', button: tick, handle};
  const guesses = settled && own.length === 0 ? rules.fallback_buttons : [];
  for (const [selectors, isGuess] of [[rules.consent_buttons, false], [guesses, true]]) {
    for (const selector of selectors) {
      const button = all(selector).find((each) => !obstacle(each) && !misleads(each, isGuess));
      if (!button) continue;
      if (isUnclear) return {kind: 'unknown', hasButton: true};
      const isAlone = own.filter(visible).length === 1;
      return {kind: 'ready', button, handle, isAlone, mark: isGuess ? 'fallback' : selector};
    }
  }
  const first = own.find(visible) || own[0];
  if (first) return {kind: 'unknown', hasButton: true, reason: obstacle(first) || misleads(first)};
  const guess = usable(guesses);
  return {kind: 'unknown', reason: guess ? misleads(guess, true) : ''};
};
"""
)

LOOK_NOW: Final = _LOOK + "return look(arguments[1] === true && document.readyState === 'complete');"
"""Arguments: `script_rules`, and whether the page has settled. What it shows at this moment."""

FIND_CONTINUE: Final = (
    _LOOK
    + r"""
if (!isOfProvider(here()) || !shown([rules.account_choices])) return {kind: 'unknown'};
const button = usable([rules.account_continue]);
return {kind: 'chooser', button: button && !misleads(button) ? button : null};
"""
)
"""Argument: `script_rules`. The button that confirms the chosen account, while the page still asks for one."""

WAIT_UNTIL_KNOWN: Final = (
    _LOOK
    + r"""
const [timeout, settle] = [arguments[1], arguments[2]];
const done = arguments[arguments.length - 1];
let quiet, built = null, finished = false;
const finish = (state) => {
  if (finished) return;
  finished = true;
  observer.disconnect();
  clearTimeout(quiet);
  clearTimeout(end);
  done(state);
};
const check = (settled) => {
  if (finished) return;
  let state;
  try {
    state = look(settled);
  } catch (error) {  // in a timer nobody else would hear of it
    return finish({error: String(error)});
  }
  if (state.kind !== 'unknown') return finish(state);
  built = settled ? state : null;
  clearTimeout(quiet);
  if (!settled) quiet = setTimeout(() => check(document.readyState === 'complete'), settle);
};
const observer = new MutationObserver(() => check(false));
for (const root of roots())
  observer.observe(root, {childList: true, subtree: true, attributes: true, characterData: true});
const end = setTimeout(() => {
  if (!built) check(false);
  finish(built || {kind: 'unknown'});
}, timeout);
addEventListener('load', () => check(false));
check(false);
"""
)
"""Arguments: `script_rules`, timeout and settle time in ms. Ends as soon as the page shows something known.

The wait is done in the page, by its own mutations: no polling, no round trips. Fallback buttons count only when the
page has loaded and nothing has changed for the settle time, so that a half-built page is not pressed at a guess; so
does a consent button while the account that is signed in is not shown yet, and a page that is not the consent's.
"""

PREPARE_PRESS: Final = (
    _READ
    + r"""
const [button, stable] = [arguments[1], arguments[2]];
const done = arguments[arguments.length - 1];
const box = () => button.getBoundingClientRect();
const judge = (before) => {
  if (!button.isConnected) return 'it is replaced again and again';
  const now = box();
  if (Math.abs(now.x - before.x) + Math.abs(now.y - before.y) > 1) return 'it moves';
  const reason = obstacle(button);
  if (reason) return reason;
  const form = button.form, isSent = form && !button.formNoValidate && !attribute(form, 'novalidate');
  const missing = isSent && ['submit', 'image'].includes(button.type) && form.querySelector(':invalid:not(fieldset)');
  if (missing) return `its form requires ${describe(missing)} (${attribute(missing, 'type') || missing.localName})`
    + ', which no rule names: see `checkboxes`';
  const hit = button.getRootNode().elementFromPoint(now.x + now.width / 2, now.y + now.height / 2);
  if (!hit) return 'it is outside the window';
  // A label may hold a link, to the terms that it accepts.
  const inner = button.localName === 'label' && hit.closest('a, button');
  const cover = button.contains(hit) ? inner && button.contains(inner) && inner : hit;
  return cover ? `it is covered by ${describe(cover)}` : '';
};
button.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
const before = box();
setTimeout(() => done(judge(before)), stable);
"""
)
"""Arguments: `script_rules`, the button, how long it must stay as it is, in ms. Why it cannot be pressed now, or ''."""

FIND_HIDDEN_CONSENT: Final = (
    _READ
    + r"""
const frame = find('iframe', document).find((each) => {
  const box = each.getBoundingClientRect();
  try {
    return box.width > 50 && box.height > 50 && isOfProvider(new URL(each.src || location.href, location.href));
  } catch {
    return false;
  }
});
if (frame && !rules.frame) return `it has an iframe, ${describe(frame)}: if the consent is in it, name it as \`frame\``;
const css = rules.consent_buttons.filter((selector) => !/^[(]|^\/\//.test(selector));
for (const host of [...document.querySelectorAll('*')].slice(0, MOST_ELEMENTS))
  if (host.shadowRoot && css.some((selector) => host.shadowRoot.querySelector(selector)))
    return `the button is in the shadow root of ${describe(host)}: name that as \`shadow_host\``;
return '';
"""
)
"""Argument: `script_rules`. Where on the page a consent may be that the rules do not describe, as a sentence."""
