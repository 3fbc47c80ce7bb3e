"""Sign-in by OpenID Connect: the issuer, the checks of its answers, and the cookie that the browser keeps meanwhile.

===========  ===================================================================================
`settings`   the client secret and the certificates that belong to `[signin.oidc]`
`attempt`    one attempt to sign in, as the browser's cookie carries it
`fetch`      bounded requests to the issuer
`cache`      copies of what was fetched
`issuer`     discovery, keys, and the exchange of a code for the claims of a person
`id_token`   the checks of an ID token
`errors`     why a sign-in was refused
===========  ===================================================================================

`fetch`, `issuer` and `id_token` load libraries of ten megabytes, so only a daemon with an issuer imports them.
"""
