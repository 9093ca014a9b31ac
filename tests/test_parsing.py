"""Threads that parse at once."""

from __future__ import annotations

import os

import pytest

from .helpers_reading import run_python


def test_threads_parse_though_others_run_in_the_middle(tmp_path):
    """Wherever garbage is collected another thread may run; CPython 3.11 then mixed up how deep each of them was."""
    code = f"""
        import gc, threading, time
        import dask.array, numpy as np
        from xr_pytables.writing.blocks import BlockTarget, PutAside
        from xr_pytables.where.conditions import compile_condition

        target = BlockTarget({os.fspath(tmp_path)!r}, 0, (4,), np.dtype("f8"), "a.h5:/v")
        target[(slice(0, 4),)] = np.arange(4.0)
        aside, failures = PutAside(target, ((4,),)), []

        def read():
            for _ in range(40):
                try:
                    assert aside.read((slice(1, 3),)).tolist() == [1, 2]
                    compile_condition("(a > 1) & (b < 2)", dict(a=np.dtype("f8"), b=np.dtype("f8")))
                except BaseException as error:
                    failures.append(repr(error))

        gc.callbacks.append(lambda phase, info: time.sleep(0.00005))
        gc.set_threshold(3)
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(failures), failures[:1])
    """
    assert run_python(code).split()[0] == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_parses_though_a_thread_held_the_lock():
    code = """
        import os, threading, warnings
        from xr_pytables.parsing import expression, parsing

        warnings.simplefilter("ignore")  # of forks beside threads
        held, done = threading.Event(), threading.Event()

        def hold():
            with parsing():
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if not child:
            os._exit(0 if expression("a > 1") else 1)
        print(os.waitpid(child, 0)[1])
        done.set()
        thread.join()
    """
    assert run_python(code).split() == ["0"]
