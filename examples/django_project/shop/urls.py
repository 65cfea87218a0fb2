from django.urls import path

from . import views

urlpatterns = [
    path("place/", views.place),
    path("take/<str:queue>/", views.take),
    path("settle/", views.settle),
]
