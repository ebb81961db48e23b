# Shared by .ci/full, sourced. Tests of the AVX-512 kernels where the processor
# has none: Bochs emulates one that has (QEMU does not), at some 90 million
# instructions a second, with Debian's kernel and init.go for all of its system.

# emulate_avx512 reads lines of PACKAGE ARGUMENT…, and runs the tests of the
# packages with the arguments on an emulated Skylake-X.
emulate_avx512() {
	need_apt bochs bochs-term bochsbios cpio isolinux syslinux-common xorriso
	local dir=$TMP/emulated package arguments n=0 kernel
	kernel=$(cloud_kernel)
	mkdir -p "$dir/root" "$dir/iso"
	export CGO_ENABLED=0
	go build -ldflags '-s -w' -o "$dir/root/init" ./.ci/emulate/init.go
	while read -r package arguments; do
		go test -c -ldflags '-s -w' -o "$dir/root/${package//\//_}" "./$package"
		echo "/${package//\//_} $arguments"
		n=$((n + 1))
	done >"$dir/root/commands.new"
	mv "$dir/root/commands.new" "$dir/root/commands"

	(cd "$dir/root" && find . | cpio -o -H newc --quiet) >"$dir/iso/initrd"
	cp "$kernel" "$dir/iso/vmlinuz"
	cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$dir/iso/"
	# Bochs errs in the size of what XSAVEC and XSAVES (321, 323) save, whereupon
	# Linux would do without AVX.
	cat >"$dir/iso/isolinux.cfg" <<-END
		DEFAULT tests
		LABEL tests
		KERNEL /vmlinuz
		APPEND initrd=/initrd console=ttyS0 quiet panic=-1 nokaslr mitigations=off noxsaves clearcpuid=321,323 CHAINRULE_ISA=avx512 CHAINRULE_REQUIRE_ISA=avx512
	END
	xorriso -as mkisofs -quiet -o "$dir/boot.iso" -b isolinux.bin -c boot.cat \
		-no-emul-boot -boot-load-size 4 -boot-info-table "$dir/iso" 2>"$dir/xorriso.log"
	cat >"$dir/bochsrc" <<-END
		config_interface: textconfig
		display_library: term
		romimage: file=/usr/share/bochs/BIOS-bochs-latest
		vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
		cpu: model=corei7_skylake_x, ips=50000000
		memory: guest=1024, host=1024
		ata0-master: type=cdrom, path=$dir/boot.iso, status=inserted
		boot: cdrom
		clock: sync=none
		com1: enabled=1, mode=file, dev=$dir/serial
		log: $dir/log
		panic: action=fatal
	END
	# Debian's Bochs starts in its debugger: c is for continue. It ends with an
	# error also when the machine turns itself off.
	: >"$dir/serial"
	TERM=vt100 timeout -s KILL 3h bochs-bin -q -f "$dir/bochsrc" <<<c >"$dir/screen" 2>&1 || true
	tr -d '\r' <"$dir/serial" | tee "$dir/output"
	grep -qx "emulated: $n commands, 0 failed" "$dir/output" || {
		tail -n 3 "$dir/screen"
		fail "not all of $n commands passed"
	}
	! grep -F 'no tests to run' "$dir/output" >/dev/null || fail 'a command ran no test'
}

# cloud_kernel prints the path of a Linux of Debian's, which is not installed.
cloud_kernel() {
	local package dir
	package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
	dir=$CACHE/$package
	if [[ ! -e $dir/ready ]]; then
		rm -rf "$dir"
		mkdir -p "$dir"
		(cd "$dir" && apt-get -q download "$package" && dpkg -x ./*.deb . && rm ./*.deb) >&2 || return 1
		touch "$dir/ready"
	fi
	echo "$dir"/boot/vmlinuz-*
}
