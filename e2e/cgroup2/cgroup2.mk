# A node on cgroup v2, on a machine that need not have it: see e2e/cgroup2/doc.go. The kernel comes from Debian and runs in
# qemu's software emulation, so it needs no KVM, but minutes.

CGROUP2_BIN  := bin/cgroup2
CGROUP2_DEBS := qemu-system-x86 kmod iptables busybox-static

.PHONY: e2e-cgroup2
e2e-cgroup2: build $(CGROUP2_BIN)/kernel/done ## Run pods with limits on a Debian kernel with cgroup v2 in qemu (minutes)
	@$(MAKE) --no-print-directory deps DEBS='$(CGROUP2_DEBS)'
	CGO_ENABLED=0 $(GO) build -trimpath -tags grpcnotrace -ldflags '-s -w' -o $(CGROUP2_BIN)/guest ./e2e/cgroup2/guest
	$(GO) run ./internal/ociarchive/build -name docker.io/mini/cgroup2:1 -add /bin/busybox=/bin/busybox \
	  -entrypoint '/bin/busybox sh' -o $(CGROUP2_BIN)/image.tar
	$(GO) run ./e2e/cgroup2 -kernel $(CGROUP2_BIN)/kernel -guest $(CGROUP2_BIN)/guest -mini bin/mini -image $(CGROUP2_BIN)/image.tar -out $(CGROUP2_BIN)

# The newest kernel of the release, unpacked and never installed.
$(CGROUP2_BIN)/kernel/done:
	@[ "$$(dpkg --print-architecture)" = amd64 ] || { echo "e2e-cgroup2 runs an amd64 kernel with this machine's programs: it needs Debian on amd64" >&2; exit 1; }
	rm -rf $(@D) && mkdir -p $(@D)
	download() { apt-get -qq -o APT::Sandbox::User=root download $$(apt-cache depends linux-image-cloud-amd64 | awk '$$1 == "Depends:" {print $$2}'); }; \
	  cd $(@D) && { download || { apt-get update -qq && download; }; }
	cd $(@D) && dpkg-deb -x linux-image-*.deb . && rm linux-image-*.deb
	touch $@
