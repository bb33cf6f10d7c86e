# SPDX-License-Identifier: MIT
"""The scenarios: builds of a project as they follow each other in its life."""
import contextlib
import time

from . import attached, engines, projects, subject

# How the project is built, and what happens to it: key -> words.
VARIANTS = {
    "naive": "no optimisation",
    "layers": "layers",
    "cache": "plain cache mount",
    "pipcachefs": "cache mount on pipcachefs",
}
STEPS = {
    "clean": "clean build",
    "again": "rebuild, nothing changed",
    "code": "rebuild, code changed",
    "package": "rebuild, one package added",
    "second": "second project, its own cache id",
    "other": "first project, another engine",
    "pruned": "rebuild after the builder was pruned",
}
IMAGES = {
    "single": "one stage, no cache mount",
    "single_mount": "one stage, cache mount",
    "multi": "two stages, cache mount",
}
SECOND_ID = "second"  # of the second project's cache mount


class Replay:
    """Builds with packages from @index, on the engine @main; what is built on
    another engine, on @other.

    @requirements  of the project
    @extra         the requirement that is added to it
    @where         a directory for projects, stores and mounts
    """

    def __init__(self, main, other, index, requirements, extra, where, say):
        self.main, self.other, self.index = main, other, index
        self.requirements, self.extra = requirements, extra
        self.where, self.say = where, say
        self.settle = lambda: None

    def _project(self, name, template, requirements, **more):
        return projects.Project(self.where / name, engines.BASE, template,
                                requirements, **more)

    def _build(self, engine, project):
        """Build an image; what it cost."""
        before, begin = len(self.index.requests), time.monotonic()
        engine.build(project.where, project.name)
        seconds = time.monotonic() - begin
        asked = self.index.requests[before:]
        self.settle()
        return {"seconds": seconds,
                "bytes": sum(request["bytes"] for request in asked),
                "files": sum(request["path"].endswith(".whl")
                             and request["status"] == 200
                             for request in asked)}

    def variant(self, name, program, limit_bytes, results):
        """All steps of one variant, into @results: step -> what it cost."""
        for engine in (self.main, self.other):
            engine.drop_caches()
        with contextlib.ExitStack() as stack:
            if name == "pipcachefs":
                self._attach(stack, program, limit_bytes)
            for step, build in self._steps(name):
                results[step] = build()
                self.say(f"{VARIANTS[name]}: {STEPS[step]}: "
                         f"{results[step]['seconds']:.1f} s, "
                         f"{results[step]['bytes'] / 1e6:.1f} MB")

    def _attach(self, stack, program, limit_bytes):
        """Mount a store, and let both engines' cache mounts be on it."""
        where = self.where / "pipcachefs"
        where.mkdir(parents=True)
        mount = stack.enter_context(
            subject.Mount(program, where, limit_bytes))
        both = [stack.enter_context(attached.Attached(
            program, mount.path, engine, [SECOND_ID],
            where / f"{engine.kind}.log"))
            for engine in (self.main, self.other)]

        def settle():
            for engine in both:
                engine.wait()

        self.settle = settle
        stack.callback(setattr, self, "settle", lambda: None)

    def _steps(self, name):
        """The steps of a variant in their order, each with its build."""
        template = projects.NAIVE if name == "naive" else projects.LAYERED
        has_mount = name in ("cache", "pipcachefs")
        first = self._project(
            f"{name}-first", template, self.requirements,
            mount=projects.cache_mount() if has_mount else "")

        def build():
            return self._build(self.main, first)

        yield "clean", build
        yield "again", build
        first.change_code()
        yield "code", build
        first.add_package(self.extra)
        yield "package", build
        if not has_mount:
            return
        second = self._project(
            f"{name}-second", template, [*self.requirements, self.extra],
            mount=projects.cache_mount(SECOND_ID))
        yield "second", lambda: self._build(self.main, second)
        yield "other", lambda: self._build(self.other, first)
        self.main.prune()
        yield "pruned", build

    def images(self, tools):
        """Sizes of images of one application, with @tools to build it."""
        self.main.drop_caches()
        cached = projects.cache_mount()
        sizes = {}
        for key, template, mount in (
                ("single", projects.NAIVE, ""),
                ("single_mount", projects.LAYERED, cached),
                ("multi", projects.MULTI_STAGE, cached)):
            project = self._project(f"image-{key.replace('_', '-')}",
                                    template, self.requirements, mount=mount,
                                    tools=tools)
            self._build(self.main, project)
            sizes[key] = self.main.size(project.name)
            self.say(f"image, {IMAGES[key]}: {sizes[key] / 1e6:.0f} MB")
        return sizes
