// An OpenID Provider on loopback: oidc-provider, configured for the tests that need one.
//
//   node provider.mjs --modules FOLDER --certificate FILE --key FILE --ca FILE --jwks FILE
//
// It listens at two free ports: http, which is the issuer's, and https, where callers may show a
// certificate that --ca signed. When both listen it prints one line, {"issuer": ..., "mtls": ...}.
// --modules is the folder that holds node_modules, --jwks the public keys of the client bank-key.
// SIGHUP rotates the signing key. A key is published for two rotations' time: after the first, its
// tokens still verify; after the second, no longer. Opaque tokens outlive rotations; of those the
// newest 1000 are kept.
//
// Tokens are of the client_credentials grant and live 10 minutes. The resource asked for says what they
// are for, and what stands for the subject, since nobody logs in:
//
//   urn:bank    a JWT (at+jwt, ES256). oidc-provider puts the client's id in `sub`, as RFC 9068
//               section 2.2 wants. It keeps no JWTs: introspecting one says active: false, and
//               revoking one does nothing.
//   urn:other   the same, for another audience.
//   urn:opaque  an opaque token whose introspection has `sub`, the client's id, which extraTokenClaims
//               adds here.
//   urn:plain   an opaque token as oidc-provider makes it by itself: introspection has `client_id`
//               and no `sub` (RFC 7662 has it optional).

import { X509Certificate, generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const text = { type: 'string' };
const { values: flags } = parseArgs({
  options: { modules: text, certificate: text, key: text, ca: text, jwks: text },
});
// An import looks for node_modules above this file, where they are not.
const found = createRequire(resolve(flags.modules, 'package.json')).resolve('oidc-provider');
const { Provider, errors } = await import(pathToFileURL(found));

const SCOPES = 'read write';
const secret = { token_endpoint_auth_method: 'client_secret_basic', client_secret: 'secret' };
const granted = {
  grant_types: ['client_credentials'], redirect_uris: [], response_types: [], scope: SCOPES,
};
const none = { grant_types: [], redirect_uris: [], response_types: [] };

const clients = [
  // Who gets tokens.
  { client_id: 'bearer', ...secret, ...granted },
  { client_id: 'dpop', ...secret, ...granted, dpop_bound_access_tokens: true },
  {
    client_id: 'mtls', ...granted,
    token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_san_dns: 'mtls',
    tls_client_certificate_bound_access_tokens: true,
  },
  // Who introspects them.
  { client_id: 'bank-secret', ...secret, ...none },
  {
    client_id: 'bank-key', ...none,
    token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256',
    jwks: JSON.parse(readFileSync(flags.jwks, 'utf8')),
  },
  {
    client_id: 'bank-certificate', ...none,
    token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_san_dns: 'bank-certificate',
  },
];

const resources = {
  'urn:bank': { audience: 'bank', accessTokenFormat: 'jwt' },
  'urn:other': { audience: 'other', accessTokenFormat: 'jwt' },
  'urn:opaque': { audience: 'bank', accessTokenFormat: 'opaque' },
  'urn:plain': { audience: 'bank', accessTokenFormat: 'opaque' },
};

let keys = [];

function rotate() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const fresh = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg: 'ES256', use: 'sig' };
  keys = [fresh, ...keys.slice(0, 1)];
}

// undefined where no certificate was shown, as over http.
function certificate(ctx) {
  return ctx.socket.getPeerX509Certificate?.();
}

function build(issuer, mtls) {
  const signing = keys[0].kid;
  return new Provider(issuer, {
    clients,
    clientAuthMethods: ['client_secret_basic', 'private_key_jwt', 'tls_client_auth'],
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    cookies: { keys: [randomUUID()] },
    // RFC 8705 section 5: the same endpoints, where a certificate can be shown.
    discovery: {
      mtls_endpoint_aliases: {
        token_endpoint: `${mtls}/token`,
        introspection_endpoint: `${mtls}/token/introspection`,
        revocation_endpoint: `${mtls}/token/revocation`,
      },
    },
    extraTokenClaims: (ctx, token) => (
      token.resourceServer?.identifier() === 'urn:opaque' ? { sub: token.clientId } : undefined
    ),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      dPoP: { enabled: true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        getCertificate: certificate,
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) => (
          property === 'tls_client_auth_san_dns'
          && new X509Certificate(certificate(ctx).raw).checkHost(expected, { subject: 'never' }) === expected
        ),
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (ctx, resource) => {
          if (!Object.hasOwn(resources, resource)) throw new errors.InvalidTarget();
          return {
            ...resources[resource], scope: SCOPES, jwt: { sign: { alg: 'ES256', kid: signing } },
          };
        },
      },
    },
    jwks: { keys },
    scopes: SCOPES.split(' '),
  });
}

async function listening(server) {
  await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
  return `127.0.0.1:${server.address().port}`;
}

let answer;
const plain = http.createServer((request, response) => answer(request, response));
const secure = https.createServer(
  {
    cert: readFileSync(flags.certificate),
    key: readFileSync(flags.key),
    ca: readFileSync(flags.ca),
    requestCert: true,
    rejectUnauthorized: false,
  },
  (request, response) => answer(request, response),
);
const issuer = `http://${await listening(plain)}`;
const mtls = `https://${await listening(secure)}`;

function start() {
  rotate();
  answer = build(issuer, mtls).callback();
}

start();
process.on('SIGHUP', start);
console.log(JSON.stringify({ issuer, mtls }));
