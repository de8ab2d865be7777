"""django-oauth-toolkit as it is installed, with its settings, a who-am-I and the routes under /test/.

Started with one JSON argument; prints `{"url": ...}` once it listens.
"""

import hashlib
import json
import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import include, path

GIVEN = json.loads(sys.argv[1])
HERE = Path(__file__).resolve().parent

settings.configure(
    SECRET_KEY="a test's",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(GIVEN["folder"]) / "django.db"}
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        f"{__name__}.count_refreshes",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [HERE / "templates"],
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": ["django.contrib.auth.context_processors.auth"]},
        }
    ],
    LOGIN_URL="/login/",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    USE_TZ=True,
    OAUTH2_PROVIDER={
        "SCOPES": {"read": "Read", "write": "Write"},
        "ACCESS_TOKEN_EXPIRE_SECONDS": 7200,
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
    },
)
django.setup()

from django.contrib.auth import get_user_model, login  # noqa: E402
from oauth2_provider.decorators import protected_resource  # noqa: E402
from oauth2_provider.models import AccessToken, Application, revoke_access_token  # noqa: E402
from oauth2_provider.views import AuthorizationView  # noqa: E402

decisions: dict[str, str] = {}
counts = {"refreshes": 0, "reuses": 0}
spent: set[str] = set()
"""Hashes of the refresh tokens that were exchanged."""


def count_refreshes(get_response):
    def count(request):
        is_refresh = request.path == "/o/token/" and request.POST.get("grant_type") == "refresh_token"
        response = get_response(request)
        if is_refresh:
            token = hashlib.sha256(request.POST.get("refresh_token", "").encode()).hexdigest()
            counts["reuses"] += token in spent
            if response.status_code == 200:
                counts["refreshes"] += 1
                spent.add(token)
        return response

    return count


class Consent(AuthorizationView):
    """The toolkit's own, where the owner decides as the test has said."""

    def form_valid(self, form):
        decision = decisions.get(self.request.user.username)
        if decision == "denied":
            form.cleaned_data["allow"] = False
        elif decision == "reduced":
            form.cleaned_data["scope"] = "read"
        return super().form_valid(form)


@protected_resource(scopes=["read"])
def me(request):
    user = request.resource_owner
    return JsonResponse({"id": user.pk, "username": user.username})


def sign_in(request):
    user, _ = get_user_model().objects.get_or_create(username=request.GET["account"])
    login(request, user)
    return HttpResponse("signed in")


def decide(request):
    decisions[request.GET["account"]] = request.GET["decision"]
    return HttpResponse()


def revoke(request):
    tokens = AccessToken.objects.filter(user__username=request.GET["account"])
    for token in tokens:
        revoke_access_token(token)
    return HttpResponse()


urlpatterns = [
    path("o/authorize/", Consent.as_view()),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("login/", lambda request: HttpResponse("Log in")),
    path("me", me),
    path("test/sign-in", sign_in),
    path("test/decide", decide),
    path("test/revoke", revoke),
    path("test/counts", lambda request: JsonResponse(counts)),
]


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        """Says nothing."""


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection: browsers open some that they do not use yet."""

    daemon_threads = True

    def server_bind(self):
        """Without the look-up of the host's name that the base does."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address
        self.setup_environ()


if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    Application.objects.create(
        client_id=GIVEN["client_id"],
        client_secret=GIVEN["client_secret"],
        redirect_uris=GIVEN["redirect_uri"],
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
        name="Tests",
    )
    server = make_server("127.0.0.1", 0, get_wsgi_application(), Server, Quiet)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    server.serve_forever()
