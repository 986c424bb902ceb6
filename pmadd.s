	.file	"<string>"
	.section	.rodata.cst32,"aM",@progbits,32
	.p2align	5, 0x0
.LCPI0_0:
	.long	0
	.long	1
	.long	2
	.long	3
	.long	4
	.long	5
	.long	6
	.long	7
.LCPI0_1:
	.long	8
	.long	9
	.long	10
	.long	11
	.long	12
	.long	13
	.long	14
	.long	15
.LCPI0_2:
	.long	16
	.long	17
	.long	18
	.long	19
	.long	20
	.long	21
	.long	22
	.long	23
.LCPI0_3:
	.long	24
	.long	25
	.long	26
	.long	27
	.long	28
	.long	29
	.long	30
	.long	31
.LCPI0_8:
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.short	1
	.section	.rodata.cst4,"aM",@progbits,4
	.p2align	2, 0x0
.LCPI0_4:
	.long	2146121005
.LCPI0_5:
	.long	2221713035
.LCPI0_6:
	.long	3266489909
.LCPI0_7:
	.long	2147516416
.LCPI0_9:
	.long	1115815936
.LCPI0_10:
	.long	0xc281fffe
.LCPI0_11:
	.long	0x40644f86
.LCPI0_12:
	.long	0xc054e3d5
.LCPI0_13:
	.long	0x3fb17efe
.LCPI0_14:
	.long	0x3ea19e3f
.LCPI0_15:
	.long	0x40558274
	.section	.ltext,"axl",@progbits
	.globl	_ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx
	.p2align	4
	.type	_ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx,@function
_ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	pushq	%r15
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%rbx
	andq	$-128, %rsp
	subq	$1024, %rsp
	.cfi_offset %rbx, -56
	.cfi_offset %r12, -48
	.cfi_offset %r13, -40
	.cfi_offset %r14, -32
	.cfi_offset %r15, -24
	vpxor	%xmm2, %xmm2, %xmm2
	vmovdqa	%ymm2, 224(%rsp)
	vmovdqa	%ymm2, 192(%rsp)
	vmovdqa	%ymm2, 160(%rsp)
	vmovdqa	%ymm2, 128(%rsp)
	movq	64(%rbp), %r13
	leaq	31(%r13), %r14
	shrq	$5, %r14
	testq	%r13, %r13
	setle	%al
	testq	%r14, %r14
	sete	%sil
	orb	%al, %sil
	je	.LBB0_1
.LBB0_8:
	movq	$0, (%rdi)
	xorl	%eax, %eax
	leaq	-40(%rbp), %rsp
	popq	%rbx
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	popq	%rbp
	.cfi_def_cfa %rsp, 8
	vzeroupper
	retq
.LBB0_1:
	.cfi_def_cfa %rbp, 16
	movq	40(%rbp), %rbx
	vmovd	%ecx, %xmm2
	vpbroadcastd	%xmm2, %ymm10
	vbroadcastss	%xmm0, %ymm11
	vbroadcastss	%xmm1, %ymm12
	addl	%edx, %r8d
	incq	%r14
	movabsq	$.LCPI0_0, %rax
	vmovaps	(%rax), %ymm0
	vmovaps	%ymm0, 736(%rsp)
	movabsq	$.LCPI0_1, %rax
	vmovaps	(%rax), %ymm0
	vmovaps	%ymm0, 704(%rsp)
	movabsq	$.LCPI0_2, %rax
	vmovaps	(%rax), %ymm0
	vmovaps	%ymm0, 672(%rsp)
	movabsq	$.LCPI0_3, %rax
	vmovaps	(%rax), %ymm0
	vmovaps	%ymm0, 640(%rsp)
	movabsq	$.LCPI0_4, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 608(%rsp)
	movabsq	$.LCPI0_5, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 576(%rsp)
	movabsq	$.LCPI0_6, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 544(%rsp)
	movabsq	$.LCPI0_7, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 512(%rsp)
	movabsq	$.LCPI0_8, %rax
	vmovaps	(%rax), %ymm0
	vmovaps	%ymm0, 480(%rsp)
	movabsq	$.LCPI0_9, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 448(%rsp)
	movabsq	$.LCPI0_10, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 416(%rsp)
	movabsq	$.LCPI0_11, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 384(%rsp)
	movabsq	$.LCPI0_12, %rax
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 352(%rsp)
	movabsq	$.LCPI0_13, %rax
	movabsq	$.LCPI0_14, %rcx
	movabsq	$.LCPI0_15, %rdx
	leaq	768(%rsp), %r15
	movabsq	$memcpy, %r9
	leaq	128(%rsp), %r10
	vbroadcastss	(%rax), %ymm0
	vmovaps	%ymm0, 320(%rsp)
	vbroadcastss	(%rcx), %ymm0
	vmovaps	%ymm0, 288(%rsp)
	vbroadcastss	(%rdx), %ymm0
	vmovaps	%ymm0, 256(%rsp)
	.p2align	4
.LBB0_2:
	movq	%rbx, %rax
	cmpq	$32, %r13
	movl	$32, %r12d
	cmovlq	%r13, %r12
	jl	.LBB0_3
.LBB0_4:
	vmovd	%r8d, %xmm0
	vpbroadcastd	%xmm0, %ymm0
	vpaddd	736(%rsp), %ymm0, %ymm1
	vpaddd	704(%rsp), %ymm0, %ymm2
	vpaddd	672(%rsp), %ymm0, %ymm3
	vpaddd	640(%rsp), %ymm0, %ymm0
	vpsrld	$16, %ymm0, %ymm4
	vpsrld	$16, %ymm3, %ymm5
	vpsrld	$16, %ymm2, %ymm6
	vpsrld	$16, %ymm1, %ymm7
	vpxor	%ymm2, %ymm6, %ymm2
	vpxor	%ymm3, %ymm5, %ymm3
	vpxor	%ymm0, %ymm4, %ymm0
	vmovdqa	608(%rsp), %ymm4
	vpmulld	%ymm4, %ymm0, %ymm0
	vpmulld	%ymm4, %ymm3, %ymm3
	vpmulld	%ymm4, %ymm2, %ymm2
	vpxor	%ymm1, %ymm7, %ymm1
	vpmulld	%ymm4, %ymm1, %ymm1
	vpsrld	$15, %ymm1, %ymm4
	vpsrld	$15, %ymm2, %ymm5
	vpsrld	$15, %ymm3, %ymm6
	vpsrld	$15, %ymm0, %ymm7
	vpxor	%ymm0, %ymm7, %ymm0
	vpxor	%ymm3, %ymm6, %ymm3
	vpxor	%ymm2, %ymm5, %ymm2
	vpxor	%ymm1, %ymm4, %ymm1
	vpaddd	%ymm2, %ymm10, %ymm2
	vpaddd	%ymm3, %ymm10, %ymm3
	vpaddd	%ymm0, %ymm10, %ymm0
	vmovdqa	576(%rsp), %ymm4
	vpmulld	%ymm4, %ymm0, %ymm0
	vpmulld	%ymm4, %ymm3, %ymm3
	vpmulld	%ymm4, %ymm2, %ymm2
	vpaddd	%ymm1, %ymm10, %ymm1
	vpmulld	%ymm4, %ymm1, %ymm1
	vpsrld	$16, %ymm1, %ymm4
	vpsrld	$16, %ymm2, %ymm5
	vpsrld	$16, %ymm3, %ymm6
	vpsrld	$16, %ymm0, %ymm7
	vpxor	%ymm3, %ymm6, %ymm3
	vpxor	%ymm2, %ymm5, %ymm2
	vpxor	%ymm1, %ymm4, %ymm1
	vmovdqa	544(%rsp), %ymm8
	vpmulld	%ymm8, %ymm1, %ymm4
	vpmulld	%ymm8, %ymm2, %ymm5
	vpmulld	%ymm8, %ymm3, %ymm6
	vpxor	%ymm0, %ymm7, %ymm0
	vpmulld	%ymm8, %ymm0, %ymm7
	vmovdqa	512(%rsp), %ymm8
	vpxor	%ymm0, %ymm8, %ymm0
	vpxor	%ymm3, %ymm8, %ymm3
	vpxor	%ymm2, %ymm8, %ymm2
	vpxor	%ymm1, %ymm8, %ymm1
	vmovdqa	480(%rsp), %ymm9
	vpmaddwd	%ymm1, %ymm9, %ymm1
	vpmaddwd	%ymm2, %ymm9, %ymm2
	vpmaddwd	%ymm3, %ymm9, %ymm3
	vpmaddwd	%ymm0, %ymm9, %ymm0
	vpxor	%ymm7, %ymm8, %ymm7
	vpxor	%ymm6, %ymm8, %ymm6
	vpxor	%ymm5, %ymm8, %ymm5
	vpxor	%ymm4, %ymm8, %ymm4
	vpmaddwd	%ymm4, %ymm9, %ymm4
	vpmaddwd	%ymm5, %ymm9, %ymm5
	vpmaddwd	%ymm6, %ymm9, %ymm6
	vpmaddwd	%ymm7, %ymm9, %ymm7
	vmovdqa	448(%rsp), %ymm8
	vpaddd	%ymm1, %ymm8, %ymm1
	vpaddd	%ymm4, %ymm1, %ymm4
	vpaddd	%ymm2, %ymm8, %ymm1
	vpaddd	%ymm5, %ymm1, %ymm1
	vpaddd	%ymm3, %ymm8, %ymm2
	vpaddd	%ymm6, %ymm2, %ymm2
	vpaddd	%ymm0, %ymm8, %ymm0
	vpaddd	%ymm7, %ymm0, %ymm0
	vmovaps	416(%rsp), %ymm5
	vaddps	%ymm5, %ymm0, %ymm3
	vaddps	%ymm5, %ymm2, %ymm2
	vaddps	%ymm5, %ymm1, %ymm1
	vaddps	%ymm5, %ymm4, %ymm0
	vmulps	%ymm0, %ymm0, %ymm4
	vmulps	%ymm1, %ymm1, %ymm5
	vmulps	%ymm2, %ymm2, %ymm6
	vmulps	%ymm3, %ymm3, %ymm7
	vmovaps	384(%rsp), %ymm9
	vmulps	%ymm7, %ymm9, %ymm8
	vmovaps	352(%rsp), %ymm13
	vaddps	%ymm13, %ymm8, %ymm8
	vmulps	%ymm7, %ymm8, %ymm8
	vmovaps	320(%rsp), %ymm14
	vaddps	%ymm14, %ymm8, %ymm8
	vmulps	%ymm7, %ymm8, %ymm8
	vmovaps	288(%rsp), %ymm15
	vaddps	%ymm15, %ymm8, %ymm8
	vmulps	%ymm7, %ymm8, %ymm7
	vmulps	%ymm6, %ymm9, %ymm8
	vaddps	%ymm13, %ymm8, %ymm8
	vmulps	%ymm6, %ymm8, %ymm8
	vaddps	%ymm14, %ymm8, %ymm8
	vmulps	%ymm6, %ymm8, %ymm8
	vaddps	%ymm15, %ymm8, %ymm8
	vmulps	%ymm6, %ymm8, %ymm6
	vmulps	%ymm5, %ymm9, %ymm8
	vaddps	%ymm13, %ymm8, %ymm8
	vmulps	%ymm5, %ymm8, %ymm8
	vaddps	%ymm14, %ymm8, %ymm8
	vmulps	%ymm5, %ymm8, %ymm8
	vaddps	%ymm15, %ymm8, %ymm8
	vmulps	%ymm5, %ymm8, %ymm5
	vmulps	%ymm4, %ymm9, %ymm8
	vaddps	%ymm13, %ymm8, %ymm8
	vmulps	%ymm4, %ymm8, %ymm8
	vaddps	%ymm14, %ymm8, %ymm8
	vmulps	%ymm4, %ymm8, %ymm8
	vaddps	%ymm15, %ymm8, %ymm8
	vmulps	%ymm4, %ymm8, %ymm4
	vmovaps	256(%rsp), %ymm8
	vaddps	%ymm7, %ymm8, %ymm7
	vmulps	%ymm7, %ymm3, %ymm3
	vaddps	%ymm6, %ymm8, %ymm6
	vmulps	%ymm6, %ymm2, %ymm2
	vaddps	%ymm4, %ymm8, %ymm4
	vaddps	%ymm5, %ymm8, %ymm5
	vmulps	%ymm5, %ymm1, %ymm1
	vmulps	(%rax), %ymm11, %ymm5
	vmulps	%ymm4, %ymm0, %ymm0
	vmulps	32(%rax), %ymm11, %ymm4
	vmulps	%ymm0, %ymm12, %ymm0
	vaddps	%ymm0, %ymm5, %ymm0
	vmulps	64(%rax), %ymm11, %ymm5
	vmulps	%ymm1, %ymm12, %ymm1
	vaddps	%ymm1, %ymm4, %ymm1
	vmulps	96(%rax), %ymm11, %ymm4
	vmulps	%ymm2, %ymm12, %ymm2
	vaddps	%ymm2, %ymm5, %ymm2
	vmulps	%ymm3, %ymm12, %ymm3
	vaddps	%ymm3, %ymm4, %ymm3
	cmpq	$32, %r13
	jl	.LBB0_6
	vmovups	%ymm0, (%rbx)
	vmovups	%ymm1, 32(%rbx)
	vmovups	%ymm2, 64(%rbx)
	vmovups	%ymm3, 96(%rbx)
.LBB0_7:
	decq	%r14
	addl	$32, %r8d
	subq	$-128, %rbx
	addq	$-32, %r13
	cmpq	$1, %r14
	ja	.LBB0_2
	jmp	.LBB0_8
.LBB0_3:
	vxorps	%xmm0, %xmm0, %xmm0
	vmovaps	%ymm0, 224(%rsp)
	vmovaps	%ymm0, 192(%rsp)
	vmovaps	%ymm0, 160(%rsp)
	vmovaps	%ymm0, 128(%rsp)
	leaq	(,%r12,4), %rdx
	movq	%rdi, 24(%rsp)
	movq	%r10, %rdi
	movq	%rbx, %rsi
	movl	%r8d, 20(%rsp)
	vmovdqa	%ymm10, 96(%rsp)
	vmovaps	%ymm11, 64(%rsp)
	vmovaps	%ymm12, 32(%rsp)
	movq	%r9, %r15
	vzeroupper
	callq	*%r9
	leaq	128(%rsp), %r10
	movq	%r15, %r9
	leaq	768(%rsp), %r15
	vmovaps	32(%rsp), %ymm12
	vmovaps	64(%rsp), %ymm11
	vmovdqa	96(%rsp), %ymm10
	movq	24(%rsp), %rdi
	movl	20(%rsp), %r8d
	movq	%r10, %rax
	jmp	.LBB0_4
.LBB0_6:
	vmovaps	%ymm0, 768(%rsp)
	vmovaps	%ymm1, 800(%rsp)
	vmovaps	%ymm2, 832(%rsp)
	vmovaps	%ymm3, 864(%rsp)
	shlq	$2, %r12
	movq	%rdi, 24(%rsp)
	movq	%rbx, %rdi
	movq	%r15, %rsi
	movq	%r12, %rdx
	movl	%r8d, 20(%rsp)
	vmovdqa	%ymm10, 96(%rsp)
	vmovaps	%ymm11, 64(%rsp)
	vmovaps	%ymm12, 32(%rsp)
	movq	%r9, %r12
	vzeroupper
	callq	*%r9
	leaq	128(%rsp), %r10
	movq	%r12, %r9
	vmovaps	32(%rsp), %ymm12
	vmovaps	64(%rsp), %ymm11
	vmovdqa	96(%rsp), %ymm10
	movq	24(%rsp), %rdi
	movl	20(%rsp), %r8d
	jmp	.LBB0_7
.Lfunc_end0:
	.size	_ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx, .Lfunc_end0-_ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx
	.cfi_endproc

	.globl	_ZN7cpython8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx
	.p2align	4
	.type	_ZN7cpython8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx,@function
_ZN7cpython8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	pushq	%r15
	.cfi_def_cfa_offset 24
	pushq	%r14
	.cfi_def_cfa_offset 32
	pushq	%r13
	.cfi_def_cfa_offset 40
	pushq	%r12
	.cfi_def_cfa_offset 48
	pushq	%rbx
	.cfi_def_cfa_offset 56
	subq	$168, %rsp
	.cfi_def_cfa_offset 224
	.cfi_offset %rbx, -56
	.cfi_offset %r12, -48
	.cfi_offset %r13, -40
	.cfi_offset %r14, -32
	.cfi_offset %r15, -24
	.cfi_offset %rbp, -16
	movq	%rsi, %rdi
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	leaq	48(%rsp), %r10
	leaq	56(%rsp), %r11
	leaq	64(%rsp), %r14
	leaq	72(%rsp), %r15
	leaq	80(%rsp), %r12
	movabsq	$".const.make.<locals>.add_g", %rsi
	movabsq	$PyArg_UnpackTuple, %r13
	xorl	%ebx, %ebx
	leaq	96(%rsp), %r8
	leaq	88(%rsp), %r9
	movl	$7, %edx
	movl	$7, %ecx
	xorl	%eax, %eax
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	callq	*%r13
	addq	$48, %rsp
	.cfi_adjust_cfa_offset -48
	vxorps	%xmm0, %xmm0, %xmm0
	vmovups	%ymm0, 96(%rsp)
	vmovups	%ymm0, 120(%rsp)
	testl	%eax, %eax
	je	.LBB1_19
	movabsq	$_ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx, %rax
	cmpq	$0, (%rax)
	je	.LBB1_24
	movq	88(%rsp), %rdi
	movabsq	$PyNumber_Long, %r13
	vzeroupper
	callq	*%r13
	movabsq	$PyLong_AsUnsignedLongLong, %rbp
	movabsq	$Py_DecRef, %r14
	testq	%rax, %rax
	je	.LBB1_25
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%rbp
	movq	%rax, %r12
	movq	%rbx, %rdi
	callq	*%r14
.LBB1_4:
	movabsq	$PyErr_Occurred, %r14
	callq	*%r14
	xorl	%ebx, %ebx
	testq	%rax, %rax
	jne	.LBB1_19
	movq	80(%rsp), %rdi
	callq	*%r13
	testq	%rax, %rax
	je	.LBB1_7
	movq	%rax, %r15
	movq	%rax, %rdi
	callq	*%rbp
	movq	%rax, %rbx
	movq	%r15, %rdi
	movabsq	$Py_DecRef, %rax
	callq	*%rax
.LBB1_7:
	callq	*%r14
	xorl	%r15d, %r15d
	testq	%rax, %rax
	jne	.LBB1_26
	movq	%r12, 32(%rsp)
	movq	72(%rsp), %rdi
	callq	*%r13
	testq	%rax, %rax
	movabsq	$Py_DecRef, %r13
	je	.LBB1_10
	movq	%rax, %r12
	movq	%rax, %rdi
	callq	*%rbp
	movq	%rax, %r15
	movq	%r12, %rdi
	callq	*%r13
.LBB1_10:
	callq	*%r14
	testq	%rax, %rax
	jne	.LBB1_26
	movq	%r15, 24(%rsp)
	movq	64(%rsp), %rdi
	movabsq	$PyNumber_Float, %r15
	callq	*%r15
	movq	%rax, %r12
	movabsq	$PyFloat_AsDouble, %rbp
	movq	%rax, %rdi
	callq	*%rbp
	vmovsd	%xmm0, 16(%rsp)
	movq	%r12, %rdi
	callq	*%r13
	callq	*%r14
	testq	%rax, %rax
	jne	.LBB1_26
	movq	56(%rsp), %rdi
	callq	*%r15
	movq	%rax, %r12
	movq	%rax, %rdi
	callq	*%rbp
	vmovsd	%xmm0, 8(%rsp)
	movq	%r12, %rdi
	callq	*%r13
	callq	*%r14
	testq	%rax, %rax
	jne	.LBB1_26
	movq	48(%rsp), %rdi
	vxorps	%xmm0, %xmm0, %xmm0
	vmovups	%ymm0, 96(%rsp)
	vmovups	%ymm0, 120(%rsp)
	movabsq	$NRT_adapt_ndarray_from_python, %rax
	leaq	96(%rsp), %rsi
	vzeroupper
	callq	*%rax
	testl	%eax, %eax
	jne	.LBB1_30
	cmpq	$1, 120(%rsp)
	jne	.LBB1_30
	movq	96(%rsp), %r12
	movq	128(%rsp), %r15
	movq	40(%rsp), %rdi
	movabsq	$PyNumber_Long, %rax
	callq	*%rax
	testq	%rax, %rax
	je	.LBB1_31
	movq	%rax, %rbp
	movabsq	$PyLong_AsLongLong, %rax
	movq	%rbp, %rdi
	callq	*%rax
	movq	%rax, %r13
	movq	%rbp, %rdi
	movabsq	$Py_DecRef, %rax
	callq	*%rax
	callq	*%r14
	testq	%rax, %rax
	jne	.LBB1_32
.LBB1_17:
	vmovsd	16(%rsp), %xmm0
	vcvtsd2ss	%xmm0, %xmm0, %xmm0
	vmovss	%xmm0, 16(%rsp)
	vmovsd	8(%rsp), %xmm0
	vcvtsd2ss	%xmm0, %xmm0, %xmm0
	vmovss	%xmm0, 8(%rsp)
	movabsq	$PyEval_SaveThread, %rax
	callq	*%rax
	movq	%rax, %rbp
	subq	$64, %rsp
	.cfi_adjust_cfa_offset 64
	movq	%r13, 48(%rsp)
	movq	%r15, 24(%rsp)
	movabsq	$_ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx, %rax
	leaq	224(%rsp), %rdi
	movq	96(%rsp), %rdx
	movl	%ebx, %ecx
	movq	88(%rsp), %r8
	vmovss	80(%rsp), %xmm0
	vmovss	72(%rsp), %xmm1
	movq	%r12, %r9
	callq	*%rax
	addq	$64, %rsp
	.cfi_adjust_cfa_offset -64
	movl	%eax, %ebx
	movabsq	$PyEval_RestoreThread, %rax
	movq	%rbp, %rdi
	callq	*%rax
	movabsq	$NRT_decref, %rax
	movq	%r12, %rdi
	callq	*%rax
	testl	%ebx, %ebx
	jne	.LBB1_20
	movabsq	$_Py_NoneStruct, %rbx
	movabsq	$Py_IncRef, %rax
	movq	%rbx, %rdi
	callq	*%rax
.LBB1_19:
	movq	%rbx, %rax
	addq	$168, %rsp
	.cfi_def_cfa_offset 56
	popq	%rbx
	.cfi_def_cfa_offset 48
	popq	%r12
	.cfi_def_cfa_offset 40
	popq	%r13
	.cfi_def_cfa_offset 32
	popq	%r14
	.cfi_def_cfa_offset 24
	popq	%r15
	.cfi_def_cfa_offset 16
	popq	%rbp
	.cfi_def_cfa_offset 8
	vzeroupper
	retq
.LBB1_20:
	.cfi_def_cfa_offset 224
	jg	.LBB1_37
	cmpl	$-1, %ebx
	je	.LBB1_26
	cmpl	$-3, %ebx
	jne	.LBB1_35
	movabsq	$PyExc_StopIteration, %rdi
	movabsq	$PyErr_SetNone, %rax
	jmp	.LBB1_33
.LBB1_24:
	movabsq	$PyExc_RuntimeError, %rdi
	movabsq	$".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx", %rsi
	jmp	.LBB1_36
.LBB1_25:
	xorl	%r12d, %r12d
	jmp	.LBB1_4
.LBB1_30:
	movabsq	$PyExc_TypeError, %rdi
	movabsq	$".const.can't unbox array from PyObject into native value.  The object maybe of a different type", %rsi
	jmp	.LBB1_36
.LBB1_31:
	xorl	%r13d, %r13d
	callq	*%r14
	testq	%rax, %rax
	je	.LBB1_17
.LBB1_32:
	movabsq	$NRT_decref, %rax
	movq	%r12, %rdi
.LBB1_33:
	callq	*%rax
.LBB1_26:
	xorl	%ebx, %ebx
	jmp	.LBB1_19
.LBB1_35:
	movabsq	$PyExc_SystemError, %rdi
	movabsq	$".const.unknown error when calling native function", %rsi
.LBB1_36:
	movabsq	$PyErr_SetString, %rax
	vzeroupper
	callq	*%rax
	xorl	%ebx, %ebx
	jmp	.LBB1_19
.LBB1_37:
	movabsq	$PyErr_Clear, %rax
	callq	*%rax
.Lfunc_end1:
	.size	_ZN7cpython8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx, .Lfunc_end1-_ZN7cpython8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx
	.cfi_endproc

	.globl	cfunc._ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx
	.p2align	4
	.type	cfunc._ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx,@function
cfunc._ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx:
	.cfi_startproc
	pushq	%r14
	.cfi_def_cfa_offset 16
	pushq	%rbx
	.cfi_def_cfa_offset 24
	subq	$72, %rsp
	.cfi_def_cfa_offset 96
	.cfi_offset %rbx, -24
	.cfi_offset %r14, -16
	movq	%rcx, %r9
	movl	%edx, %r8d
	movl	%esi, %ecx
	movl	%edi, %edx
	movq	104(%rsp), %rax
	movq	128(%rsp), %rsi
	movq	$0, 64(%rsp)
	movq	%rsi, 48(%rsp)
	movq	%rax, 24(%rsp)
	movabsq	$_ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx, %rax
	leaq	64(%rsp), %rdi
	callq	*%rax
	movq	64(%rsp), %rcx
	movl	$0, 60(%rsp)
	testl	%eax, %eax
	jne	.LBB2_1
.LBB2_5:
	movq	%rcx, %rax
	addq	$72, %rsp
	.cfi_def_cfa_offset 24
	popq	%rbx
	.cfi_def_cfa_offset 16
	popq	%r14
	.cfi_def_cfa_offset 8
	retq
.LBB2_1:
	.cfi_def_cfa_offset 96
	movq	%rcx, %r14
	movabsq	$numba_gil_ensure, %rcx
	leaq	60(%rsp), %rdi
	movl	%eax, %ebx
	callq	*%rcx
	testl	%ebx, %ebx
	jg	.LBB2_2
	movl	%ebx, %eax
	cmpl	$-1, %ebx
	je	.LBB2_4
	cmpl	$-3, %eax
	jne	.LBB2_3
	movabsq	$PyExc_StopIteration, %rdi
	movabsq	$PyErr_SetNone, %rax
	callq	*%rax
	jmp	.LBB2_4
.LBB2_3:
	movabsq	$PyExc_SystemError, %rdi
	movabsq	$".const.unknown error when calling native function.2", %rsi
	movabsq	$PyErr_SetString, %rax
	callq	*%rax
.LBB2_4:
	movabsq	$".const.<numba.core.cpu.CPUContext>", %rdi
	movabsq	$PyUnicode_FromString, %rax
	callq	*%rax
	movq	%rax, %rbx
	movabsq	$PyErr_WriteUnraisable, %rax
	movq	%rbx, %rdi
	callq	*%rax
	movabsq	$Py_DecRef, %rax
	movq	%rbx, %rdi
	callq	*%rax
	movabsq	$numba_gil_release, %rax
	leaq	60(%rsp), %rdi
	callq	*%rax
	movq	%r14, %rcx
	jmp	.LBB2_5
.LBB2_2:
	movabsq	$PyErr_Clear, %rax
	callq	*%rax
.Lfunc_end2:
	.size	cfunc._ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx, .Lfunc_end2-cfunc._ZN8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx
	.cfi_endproc

	.weak	NRT_incref
	.p2align	4
	.type	NRT_incref,@function
NRT_incref:
	testq	%rdi, %rdi
	je	.LBB3_2
	lock		incq	(%rdi)
.LBB3_2:
	retq
.Lfunc_end3:
	.size	NRT_incref, .Lfunc_end3-NRT_incref

	.weak	NRT_decref
	.p2align	4
	.type	NRT_decref,@function
NRT_decref:
	.cfi_startproc
	testq	%rdi, %rdi
	je	.LBB4_2
	#MEMBARRIER
	lock		decq	(%rdi)
	je	.LBB4_3
.LBB4_2:
	retq
.LBB4_3:
	#MEMBARRIER
	movabsq	$NRT_MemInfo_call_dtor, %rax
	jmpq	*%rax
.Lfunc_end4:
	.size	NRT_decref, .Lfunc_end4-NRT_decref
	.cfi_endproc

	.type	".const.make.<locals>.add_g",@object
	.section	.lrodata,"al",@progbits
	.p2align	4, 0x0
".const.make.<locals>.add_g":
	.asciz	"make.<locals>.add_g"
	.size	".const.make.<locals>.add_g", 20

	.type	_ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx,@object
	.comm	_ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx,8,8
	.type	".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx",@object
	.p2align	4, 0x0
".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx":
	.asciz	"missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx"
	.size	".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e5add_gB2v3B56c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAK4JJIqUWsIgmAA_3d_3dEjjjff5ArrayIhLi1E1C7mutable7alignedEx", 170

	.type	".const.can't unbox array from PyObject into native value.  The object maybe of a different type",@object
	.p2align	4, 0x0
".const.can't unbox array from PyObject into native value.  The object maybe of a different type":
	.asciz	"can't unbox array from PyObject into native value.  The object maybe of a different type"
	.size	".const.can't unbox array from PyObject into native value.  The object maybe of a different type", 89

	.type	".const.unknown error when calling native function",@object
	.p2align	4, 0x0
".const.unknown error when calling native function":
	.asciz	"unknown error when calling native function"
	.size	".const.unknown error when calling native function", 43

	.type	".const.unknown error when calling native function.2",@object
	.p2align	4, 0x0
".const.unknown error when calling native function.2":
	.asciz	"unknown error when calling native function"
	.size	".const.unknown error when calling native function.2", 43

	.type	".const.<numba.core.cpu.CPUContext>",@object
	.p2align	4, 0x0
".const.<numba.core.cpu.CPUContext>":
	.asciz	"<numba.core.cpu.CPUContext>"
	.size	".const.<numba.core.cpu.CPUContext>", 28

	.type	_ZN08NumbaEnv5numba7cpython8builtins6ol_min12_3clocals_3e4implB2v2B54c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAw4hWqFpgsIBZmgA_3dE15StarArgUniTupleIxLi2EE,@object
	.comm	_ZN08NumbaEnv5numba7cpython8builtins6ol_min12_3clocals_3e4implB2v2B54c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsBAw4hWqFpgsIBZmgA_3dE15StarArgUniTupleIxLi2EE,8,8
	.section	".note.GNU-stack","",@progbits
