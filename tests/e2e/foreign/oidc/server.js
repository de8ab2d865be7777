// oidc-provider as it is installed, with its settings, a consent page and the routes under /test/.
// Started with one JSON argument; prints {"url": ...} once it listens.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const given = JSON.parse(process.argv[2]);
const decisions = new Map();
const grantsOf = new Map();
const counts = { refreshes: 0, reuses: 0 };
let isHolding = false;

const server = createServer((request, response) => handle(request, response).catch((error) => {
  console.error(error);
  if (!response.headersSent) response.writeHead(500);
  response.end();
}));
await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
const url = `http://${given.host}:${server.address().port}`;
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const provider = new Provider(url, {
  clients: [{
    client_id: given.client_id,
    client_secret: given.client_secret,
    redirect_uris: [given.redirect_uri],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
  }],
  claims: { openid: ['sub'], profile: ['preferred_username', 'groups'], email: ['email'] },
  conformIdTokenClaims: false, // the claims of the scopes are in the ID token, too
  cookies: { keys: ['of the tests'] },
  features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
  findAccount: (_, id) => ({
    accountId: id, claims: () => ({ sub: id, preferred_username: id, groups: given.groups[id] ?? [] }),
  }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'k', use: 'sig', alg: 'RS256' }] },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: 7200, RefreshToken: 86400, Grant: 86400, Session: 86400, Interaction: 600, IdToken: 600 },
});
provider.on('grant.success', (ctx) => {
  if (ctx.oidc.params.grant_type === 'refresh_token') counts.refreshes += 1;
});
provider.on('grant.error', (_, error) => {
  if (error.error_detail === 'refresh token already used') counts.reuses += 1;
});
const callback = provider.callback();

async function handle(request, response) {
  const { pathname, searchParams } = new URL(request.url, url);
  const account = searchParams.get('account');
  if (pathname.startsWith('/interaction/')) return interact(request, response);
  if (!pathname.startsWith('/test/')) {
    if (isHolding) hold(response);
    return callback(request, response);
  }
  switch (pathname) {
    case '/test/sign-in': return signIn(request, response, account);
    case '/test/decide': decisions.set(account, searchParams.get('decision')); break;
    case '/test/hold': isHolding = true; break;
    case '/test/revoke': await revoke(account); break;
    default: break;
  }
  response.setHeader('content-type', 'application/json');
  return response.end(JSON.stringify(counts));
}

// Shows the answer to the client as a link, in the place of the redirect.
function hold(response) {
  const end = response.end.bind(response);
  response.end = (...content) => {
    const address = String(response.getHeader('location') ?? '');
    if (!address.startsWith(given.redirect_uri)) return end(...content);
    response.statusCode = 200;
    response.removeHeader('location');
    response.removeHeader('content-length');
    response.setHeader('content-type', 'text/html');
    return end(`<a id="answer" href="${address.replaceAll('&', '&amp;')}">Back</a>`);
  };
}

async function signIn(request, response, account) {
  const context = provider.createContext(request, response);
  const session = new provider.Session();
  session.loginAccount({ accountId: account });
  await session.save(86400);
  const expires = new Date(Date.now() + 86400e3);
  context.cookies.set('_session', session.id, { httpOnly: true, sameSite: 'lax', expires });
  response.setHeader('set-cookie', context.res.getHeader('set-cookie'));
  response.end('signed in');
}

async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  response.setHeader('content-type', 'text/html');
  if (prompt.name === 'login') {
    if (request.method !== 'POST') {
      return response.end('<form class="login" method="post"><input name="account"><button>Log in</button></form>');
    }
    let form = '';
    for await (const part of request) form += part;
    const accountId = new URLSearchParams(form).get('account');
    return provider.interactionFinished(request, response, { login: { accountId } });
  }
  const account = session.accountId;
  if (request.method !== 'POST') {
    return response.end(`<!doctype html><title>Authorize</title><p>Signed in as <b id="signed-in">${account}</b></p>
      <form class="consent" method="post"><button name="decision" value="allow">Continue</button></form>`);
  }
  if (decisions.get(account) === 'denied') {
    const denied = { error: 'access_denied', error_description: 'End-User aborted interaction' };
    return provider.interactionFinished(request, response, denied, { mergeWithLastSubmission: false });
  }
  const grant = (grantId && await provider.Grant.find(grantId))
    || new provider.Grant({ accountId: account, clientId: params.client_id });
  if (decisions.get(account) === 'reduced') {
    grant.addOIDCScope('openid profile offline_access');
    grant.rejectOIDCScope('email');
  } else grant.addOIDCScope(params.scope);
  const id = await grant.save();
  grantsOf.set(account, [...(grantsOf.get(account) ?? []), id]);
  return provider.interactionFinished(request, response, { consent: { grantId: id } });
}

// As the owner does on the provider's page of connected apps.
async function revoke(account) {
  for (const id of grantsOf.get(account) ?? []) {
    await Promise.all([provider.AccessToken, provider.RefreshToken].map((model) => model.revokeByGrantId(id)));
    await provider.Grant.adapter.destroy(id);
  }
  grantsOf.delete(account);
}

console.log(JSON.stringify({ url }));
