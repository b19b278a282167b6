"""Every HTTP path of the Director."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from director.accounts import views as account_views
from director.pages import api_docs
from director.security.passwords import change_password, first_administrator, set_password, sign_in
from director.security.sign_in import sign_out
from director.web import errors
from director.web.health import HealthView
from director.web.metrics import metrics

admin.autodiscover()

urlpatterns = [
    path("api/health", HealthView.as_view()),
    path("api/health/", HealthView.as_view()),
    path("api/v2/", include("jobgroups.api.v2.urls")),
    path("api/schema", api_docs.schema),
    path("api/docs", api_docs.page),
    *account_views.urlpatterns,
    path("api/", include("jobgroups.api.urls")),
    path("metrics", metrics),
    path("sign-in", sign_in),
    path("sign-in/", sign_in),
    path("sign-in/password/<str:uid>/<str:code>", set_password),
    path("sign-in/first/<str:code>", first_administrator),
    *([path("", include("director.security.oidc"))] if settings.DIRECTOR_OIDC_ISSUER else []),
    path("account/password", change_password),
    path("sign-out", sign_out),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("", include("director.pages.urls")),
]

handler400 = errors.bad_request
