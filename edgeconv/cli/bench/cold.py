"""`edgeconv bench cold`: what a user waits for before the first result."""

from __future__ import annotations

from edgeconv.cli import output as out
from edgeconv.cli.bench import session
from edgeconv.cli.bench.nets import Networks
from edgeconv.cli.bench.options import (
    BenchDevice,
    BenchTarget,
    Engines,
    JsonFile,
    Limit,
    Lock,
    ThreadList,
    check_outputs,
    method,
    numbers,
)
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Timeout


@guarded
def command(
    networks: Networks = None,
    threads: ThreadList = "1",
    engines: Engines = None,
    target: BenchTarget = "host",
    device: BenchDevice = None,
    timeout: Timeout = 30.0,
    json_file: JsonFile = None,
    limit: Limit = 300.0,
    lock: Lock = None,
    verbose: Verbose = False,
) -> None:
    """Measure compile and load time, file size, memory.

    Each in fresh processes. edgeconv loads its artifact; the others convert and load the ONNX file.
    Without --engines: edgeconv and ONNX Runtime. On a --device, loading includes the transfer.

    \b
    Example:
      edgeconv bench cold mobilenetv2 --engines onnxruntime,tflite
    """
    thread_counts = numbers(threads, "--threads")
    check_outputs(json_file, None)
    with out.progress("loading") as report:
        from edgeconv.benchmarks import cold, nets
        from edgeconv.benchmarks import networks as known
        from edgeconv.benchmarks.records import Records

        names = networks or list(nets.DEFAULT)
        known.check(names)
        how = method(
            engines="onnxruntime" if engines is None and device is None else engines,
            threads=thread_counts,
            target=target,
            rounds=5,
            seconds=None,
            strict=False,
            limit=limit,
            lock=lock,
            device=device,
            timeout=timeout,
        )
        where = {} if device is None else {"device": device}
        settings = {**where, "engines": list(how.engines), "target": how.target}
        records = Records(json_file, cold.PROGRAMME, settings)
        for count in thread_counts:
            for name in names:
                key = cold.key(name, count)
                if key not in records:
                    report(key)
                    records.add(key, cold.measure(name, count, how))
    session.show(cold.table(records.content))
    for line in cold.failures(records.content):
        out.message("note", line)
