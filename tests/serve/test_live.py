"""A catalogue that changes while it is served."""

import os
import shutil
import signal
import threading

import pytest
from conftest import save_model
from support import wait_for

from nearkin.catalog import Catalog, name, upgrade
from nearkin.catalog.store import id_of
from nearkin.serve.live import Live
from nearkin.serve.problems import Problem
