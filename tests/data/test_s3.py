import os
import subprocess
import sys

import numpy as np
import pytest

from skyframe.data import s3
from skyframe.data.cube import open_cube
from skyframe.data.integrity import check_cube
from skyframe.data.read import read_series
from skyframe.spec import InputError, Window
from tests.data.cubes import tiny_cube

SERVE = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
import threading
threading.Event().wait()
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A real S3 server in a process of its own, holding a tiny cube."""
    pytest.importorskip("moto.server", reason="the extra dev brings an S3 server")
    from botocore.session import Session

    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3._signer.cache_clear()
        client = Session().create_client("s3", region_name="eu-west-1", endpoint_url=endpoint)
        client.create_bucket(Bucket="cubes", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        cube = tiny_cube(tmp_path / "tiny.zarr", names=("s2",))
        for file in cube.path.rglob("*"):
            if file.is_file():
                client.put_object(Bucket="cubes", Key=f"a b/{file.relative_to(tmp_path)}", Body=file.read_bytes())
        client.close()
        yield cube
    finally:
        process.kill()
        process.communicate()
        s3._signer.cache_clear()


def test_a_cube_in_a_bucket(bucket):
    cube = open_cube("s3://cubes/a b/tiny.zarr")
    window = Window("tiny", 0, 60, 640)
    got, expected = read_series(cube, window)["s2"], read_series(bucket, window)["s2"]
    assert np.array_equal(got.values, expected.values) and np.array_equal(got.valid, expected.valid)
    assert check_cube(cube) == []
    with pytest.raises(InputError, match=r"s3://cubes/a b/none.zarr: no manifest.json inside"):
        open_cube("s3://cubes/a b/none.zarr")


def test_addresses(monkeypatch):
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    assert s3.bucket_address("b") == "https://b.s3.us-east-1.amazonaws.com"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert s3.bucket_address("a.b") == "https://s3.eu-west-1.amazonaws.com/a.b"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000/")
    assert s3.bucket_address("b") == "http://store:9000/b"
    assert s3.wants_signing()
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "1")
    assert not s3.wants_signing()
