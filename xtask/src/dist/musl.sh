# Arguments: those of cargo. The standard library asks for libunwind with musl; gcc's does the same,
# but for one function of the GNU C library, without which it looks through the program's headers.
mkdir /tmp/unwind
cp "$(gcc -print-file-name=libgcc_eh.a)" /tmp/unwind/libunwind.a
echo 'int _dl_find_object(void *address, void *result) { return -1; }' |
	gcc -O2 -fPIC -x c -c -o /tmp/unwind/find.o -
ar r /tmp/unwind/libunwind.a /tmp/unwind/find.o 2>/dev/null
exec cargo "$@"
