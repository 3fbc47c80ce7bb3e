"""Why a sign-in by OpenID Connect was refused."""

from typing import Literal, get_args

Refusal = Literal["state", "cancelled", "issuer", "code", "mix_up", "id_token", "agent", "roles", "shut_out"]
"""`state`: the browser did not begin this sign-in, or too long ago. `cancelled`: the issuer reports an error, such as
that the person did not agree. `issuer`: it did not answer, or not as the protocol demands. `code`: it refused the code.
`mix_up`: another issuer sent the browser. `id_token`: the ID token is not valid. `agent`: the claim finds several
configured agents, or one who has expired. `roles`: no group of the person gives a role. `shut_out`: an operator has
shut the agent out.
"""

REFUSALS: tuple[Refusal, ...] = get_args(Refusal)


class SignInRefused(Exception):
    """A sign-in was refused. `detail` is for the log: it contains no secret, and has at most 200 characters."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in detail[:200])
        super().__init__(shown)
        self.refusal = refusal
        self.detail = shown
