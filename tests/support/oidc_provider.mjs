// The OpenID provider `oidc-provider` from npm, with accounts and clients from its standard input.
//
// The input is a JSON object: `package` (the folder of the package), `port`, `issuer`, `clients`, `accounts` (claims by
// name), `keys` (a JWK Set) and `settings`. It writes one line when it accepts connections. It accepts any password.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const given = JSON.parse(readFileSync(0, 'utf8'));
const { default: Provider } = await import(pathToFileURL(`${given.package}/lib/index.js`));

const provider = new Provider(given.issuer, {
  clients: given.clients,
  jwks: given.keys,
  cookies: { keys: ['a key for cookies'] },
  claims: {
    openid: ['sub'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
    groups: ['groups'],
  },
  scopes: ['openid', 'profile', 'email', 'groups'],
  features: { devInteractions: { enabled: true } },
  findAccount: (_context, sub) => {
    const claims = given.accounts[sub];
    return claims && { accountId: sub, claims: () => ({ sub, ...claims }) };
  },
  ...given.settings,
});

provider.listen(given.port, '127.0.0.1', () => console.log('listening'));
