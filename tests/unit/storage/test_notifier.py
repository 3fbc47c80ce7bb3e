"""The notifier: a notification from any thread wakes all coroutines that wait for events."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from tminus.storage.notifier import Notifier, wait_for

LONG = 10.0
"""Seconds that a wait takes only if the notifier is broken."""


def test_a_notification_from_another_thread_wakes_all_waiting_coroutines() -> None:
    async def listen() -> list[bool]:
        notifier = Notifier()
        waits = [asyncio.create_task(wait_for(notifier.next_notification(), LONG)) for _ in range(3)]
        await asyncio.sleep(0)  # they wait now
        with ThreadPoolExecutor() as pool:
            pool.submit(notifier.notify).result()
        return await asyncio.gather(*waits)

    assert asyncio.run(listen()) == [True, True, True]


def test_a_notification_before_the_wait_begins_is_not_lost() -> None:
    async def listen() -> bool:
        notifier = Notifier()
        notification = notifier.next_notification()
        thread = threading.Thread(target=notifier.notify)
        thread.start()
        thread.join()
        assert not notification.is_set(), "events of asyncio are set on their own thread"
        await asyncio.sleep(0)  # heard before anybody waits
        assert notification.is_set()
        return await wait_for(notification, LONG)

    # In debug mode a loop takes nothing from another thread but by the one way that wakes it from its sleep.
    assert asyncio.run(listen(), debug=True)


def test_each_notification_ends_one_wait() -> None:
    async def listen() -> None:
        notifier = Notifier()
        for _ in range(3):
            notification = notifier.next_notification()
            notifier.notify()
            notifier.notify()
            assert await wait_for(notification, LONG)
            assert not notifier.next_notification().is_set()
        assert not await wait_for(notifier.next_notification(), 0.001)

    asyncio.run(listen())


def test_no_notification_of_a_busy_writer_is_lost() -> None:
    written = 0

    async def listen() -> None:
        notifier = Notifier()

        def write() -> None:
            nonlocal written
            for _ in range(500):
                written += 1
                notifier.notify()

        writer = threading.Thread(target=write)
        writer.start()
        seen = 0
        while seen < 500:
            notification = notifier.next_notification()
            if seen == written:
                assert await wait_for(notification, LONG), f"woken for {seen} of {written}"
            seen = written
        writer.join()

    asyncio.run(listen())


def test_a_notification_is_forgotten_if_no_coroutine_waits() -> None:
    async def listen() -> bool:
        notifier = Notifier()
        notifier.notify()
        assert vars(notifier) == vars(Notifier()), "it wakes no loop"
        return await wait_for(notifier.next_notification(), 0.001)

    assert asyncio.run(listen()) is False, "what was before is seen by looking"


def test_notify_may_be_called_after_the_loop_has_closed() -> None:
    notifier = Notifier()

    async def listen() -> None:
        notifier.next_notification()

    asyncio.run(listen())
    notifier.notify()
    notifier.notify()
