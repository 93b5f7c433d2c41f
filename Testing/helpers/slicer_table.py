"""What a scripted module may use of Qt, CTK and Slicer's widgets and functions: one table, which the stand-in of the
application obeys.

Written from the sources of Slicer 5.13 (583e9b37d50e, August 2026), the CTK that it builds (commontk/CTK), PythonQt
(commontk/PythonQt, patched-9), and Qt 5.15: what Qt 5 and Qt 6 both have. Something that Slicer has and this table has
not is refused as if Slicer had it not: look it up in the source, and write it here.

In PythonQt a Q_PROPERTY is an attribute and hides a getter of the same name; everything else is a method, and is
called. Methods are written with the numbers of arguments that they take ("addItem/1-2"), static ones under `statics`. A
signal with a default argument exists with and without it. Values of enums are attributes of the class, and need not be
listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CLASSES = """
QObject
  properties objectName
  signals    destroyed(QObject*) destroyed()
  methods    blockSignals/1 signalsBlocked/0 children/0 parent/0 setParent/1 property/1 setProperty/2 deleteLater/0
  methods    findChild/1-2
  methods    findChildren/1-2 inherits/1 isWidgetType/0 installEventFilter/1 removeEventFilter/1 className/0 delete/0

QTimer(QObject)
  properties interval active remainingTime timerType
  signals    timeout()
  methods    start/0-1 stop/0 setInterval/1 setSingleShot/1 isSingleShot/0 isActive/0
  statics    singleShot/2-3

QSettings(QObject)
  methods    value/1-2 setValue/2 contains/1 remove/1 beginGroup/1 endGroup/0 allKeys/0 sync/0

QShortcut(QObject)
  properties key context enabled autoRepeat
  signals    activated() activatedAmbiguously()
  methods    setKey/1 setContext/1 setEnabled/1

QAction(QObject)
  properties checkable checked enabled text toolTip visible shortcut shortcutContext icon iconText statusTip whatsThis
  properties autoRepeat
  signals    triggered(bool) triggered() toggled(bool) hovered() changed()
  methods    trigger/0 toggle/0 setChecked/1 setEnabled/1 setVisible/1 setText/1 setToolTip/1 setData/1 data/0
  methods    setShortcut/1
  methods    setCheckable/1 setSeparator/1 isSeparator/0 setActionGroup/1 setIcon/1

QActionGroup(QObject)
  properties enabled visible
  signals    triggered(QAction*) hovered(QAction*)
  methods    addAction/1 removeAction/1 actions/0 checkedAction/0 setExclusive/1

QButtonGroup(QObject)
  properties exclusive
  methods    addButton/1-2 removeButton/1 buttons/0 button/1 id/1 setId/2 checkedButton/0 checkedId/0

QClipboard(QObject)
  signals    dataChanged()
  methods    setText/1-2 text/0 clear/0-1

QFile(QObject)
  methods    exists/0 open/1 close/0 fileName/0

QUiLoader(QObject)
  methods    load/1-2

QWidget(QObject)
  properties enabled visible toolTip windowTitle styleSheet geometry size width height x y pos rect minimumWidth
  properties maximumWidth
  properties minimumHeight maximumHeight minimumSize maximumSize sizeHint minimumSizeHint sizePolicy font palette cursor
  properties focus
  properties focusPolicy contextMenuPolicy windowModality modal isActiveWindow fullScreen minimized maximized windowIcon
  properties statusTip
  properties whatsThis toolTipDuration acceptDrops mouseTracking updatesEnabled layoutDirection accessibleName
  properties accessibleDescription
  properties autoFillBackground windowOpacity
  signals    windowTitleChanged(QString) customContextMenuRequested(QPoint)
  methods    show/0 hide/0 close/0 raise_/0 setFocus/0-1 clearFocus/0 setEnabled/1 setDisabled/1 setVisible/1
  methods    isVisible/0 isEnabled/0
  methods    isVisibleTo/1 isHidden/0 hasFocus/0 setLayout/1 layout/0 resize/1-2 move/1-2 adjustSize/0 update/0
  methods    repaint/0 grab/0-1
  methods    setToolTip/1 setStyleSheet/1 setWindowTitle/1 setSizePolicy/1-2 setMinimumWidth/1 setMaximumWidth/1
  methods    setMinimumHeight/1
  methods    setMaximumHeight/1 setMinimumSize/1-2 setMaximumSize/1-2 setFixedSize/1-2 setFixedWidth/1 setFixedHeight/1
  methods    updateGeometry/0
  methods    window/0 parentWidget/0 addAction/1 removeAction/1 actions/0 focusWidget/0 nextInFocusChain/0 mapToGlobal/1
  methods    mapFromGlobal/1
  methods    setContextMenuPolicy/1 setFocusPolicy/1 setCursor/1 unsetCursor/0 setAttribute/1-2 setWindowModality/1
  methods    childAt/1-2
  methods    setFocusProxy/1 focusProxy/0 setContentsMargins/4 fontMetrics/0 setFont/1 setAccessibleName/1
  methods    ensurePolished/0
  statics    setTabOrder/2

QFrame(QWidget)
  properties frameShape frameShadow lineWidth midLineWidth frameWidth
  methods    setFrameStyle/1 setFrameShape/1 setFrameShadow/1

QMainWindow(QWidget)
  methods    statusBar/0 menuBar/0

QDialog(QWidget)
  properties sizeGripEnabled
  signals    accepted() rejected() finished(int)
  methods    exec_/0 accept/0 reject/0 done/1 open/0 result/0 setModal/1

QFileDialog(QDialog)
  properties acceptMode defaultSuffix fileMode options supportedSchemes viewMode
  signals    fileSelected(QString) filesSelected(QStringList) currentChanged(QString) directoryEntered(QString)
  signals    filterSelected(QString)
  methods    selectedFiles/0 selectedNameFilter/0 selectNameFilter/1 selectFile/1 setNameFilter/1 setNameFilters/1
  methods    nameFilters/0
  methods    setDefaultSuffix/1 setAcceptMode/1 setFileMode/1 setDirectory/1 setOption/1-2 setOptions/1 setLabelText/2
  methods    labelText/1
  methods    setHistory/1 history/0
  statics    getSaveFileName/0-6 getOpenFileName/0-6 getOpenFileNames/0-6 getExistingDirectory/0-4

QMessageBox(QDialog)
  properties text icon iconPixmap textFormat standardButtons detailedText informativeText textInteractionFlags
  signals    buttonClicked(QAbstractButton*)
  methods    setText/1 setInformativeText/1 setDetailedText/1 setStandardButtons/1 setDefaultButton/1 addButton/1-2
  methods    button/1 setIcon/1
  methods    clickedButton/0 buttons/0 buttonRole/1 setEscapeButton/1

QProgressDialog(QDialog)
  properties wasCanceled minimum maximum value autoReset autoClose minimumDuration labelText
  signals    canceled()
  methods    cancel/0 reset/0 setValue/1 setMaximum/1 setMinimum/1 setRange/2 setLabelText/1 setCancelButtonText/1
  methods    setMinimumDuration/1
  methods    setAutoClose/1 setAutoReset/1

QAbstractButton(QWidget)
  properties text icon iconSize shortcut checkable checked autoRepeat autoExclusive down
  signals    clicked(bool) clicked() toggled(bool) pressed() released()
  methods    click/0 toggle/0 setChecked/1 setText/1 setIcon/1 setCheckable/1 setShortcut/1 animateClick/0 setDown/1
  methods    isChecked/0
  methods    setIconSize/1 setAutoExclusive/1

QPushButton(QAbstractButton)
  properties autoDefault default flat
  methods    setMenu/1 menu/0 showMenu/0 setDefault/1 setAutoDefault/1 setFlat/1

QCheckBox(QAbstractButton)
  properties tristate
  signals    stateChanged(int)
  methods    checkState/0 setCheckState/1 setTristate/0-1

QRadioButton(QAbstractButton)

QToolButton(QAbstractButton)
  properties popupMode toolButtonStyle autoRaise arrowType
  signals    triggered(QAction*)
  methods    setMenu/1 menu/0 setDefaultAction/1 defaultAction/0 setPopupMode/1 setToolButtonStyle/1 setAutoRaise/1
  methods    showMenu/0
  methods    setArrowType/1

QMenu(QWidget)
  properties title icon separatorsCollapsible toolTipsVisible tearOffEnabled
  signals    triggered(QAction*) hovered(QAction*) aboutToShow() aboutToHide()
  methods    addAction/1-4 addMenu/1-2 addSeparator/0 addSection/1-2 clear/0 exec_/0-2 popup/1-2 isEmpty/0 setTitle/1
  methods    setDefaultAction/1
  methods    setToolTipsVisible/1

QLabel(QFrame)
  properties text textFormat pixmap scaledContents alignment wordWrap margin indent openExternalLinks
  properties textInteractionFlags hasSelectedText
  properties selectedText
  signals    linkActivated(QString) linkHovered(QString)
  methods    setText/1 setPixmap/1 clear/0 setWordWrap/1 setAlignment/1 setBuddy/1 setOpenExternalLinks/1
  methods    setTextInteractionFlags/1

QLineEdit(QWidget)
  properties text displayText maxLength readOnly placeholderText cursorPosition alignment modified selectedText
  properties acceptableInput
  properties clearButtonEnabled echoMode frame inputMask undoAvailable redoAvailable hasSelectedText dragEnabled
  signals    textChanged(QString) textEdited(QString) editingFinished() returnPressed() cursorPositionChanged(int,int)
  signals    selectionChanged()
  methods    setText/1 clear/0 selectAll/0 setReadOnly/1 setPlaceholderText/1 setClearButtonEnabled/1 insert/1
  methods    setMaxLength/1
  methods    setValidator/1 setCompleter/1 hasAcceptableInput/0

QComboBox(QWidget)
  properties count currentText currentIndex currentData editable frame iconSize insertPolicy maxCount maxVisibleItems
  properties minimumContentsLength modelColumn sizeAdjustPolicy duplicatesEnabled
  signals    currentIndexChanged(int) currentTextChanged(QString) activated(int) highlighted(int)
  signals    editTextChanged(QString)
  methods    addItem/1-3 addItems/1 insertItem/2-4 insertSeparator/1 removeItem/1 clear/0 itemText/1 itemData/1-2
  methods    setItemText/2
  methods    setItemData/2-3 findText/1-2 findData/1-3 setCurrentIndex/1 setCurrentText/1 lineEdit/0 setLineEdit/1
  methods    model/0 view/0
  methods    setEditable/1 setMaxVisibleItems/1 setSizeAdjustPolicy/1 showPopup/0 hidePopup/0 setMinimumContentsLength/1
  methods    clearEditText/0
  methods    setItemIcon/2 setEditText/1 setModel/1

QProgressBar(QWidget)
  properties minimum maximum value text textVisible format alignment orientation invertedAppearance textDirection
  signals    valueChanged(int)
  methods    setValue/1 setRange/2 setMinimum/1 setMaximum/1 reset/0 setFormat/1 setTextVisible/1

QAbstractSlider(QWidget)
  properties minimum maximum singleStep pageStep value sliderPosition tracking orientation sliderDown
  signals    valueChanged(int) sliderMoved(int) sliderPressed() sliderReleased() rangeChanged(int,int)
  methods    setValue/1 setRange/2 setMinimum/1 setMaximum/1

QSlider(QAbstractSlider)
  properties tickPosition tickInterval

QScrollBar(QAbstractSlider)

QAbstractSpinBox(QWidget)
  properties readOnly keyboardTracking specialValueText
  signals    editingFinished()

QSpinBox(QAbstractSpinBox)
  properties minimum maximum singleStep value cleanText displayIntegerBase prefix suffix
  signals    valueChanged(int)
  methods    setValue/1 setRange/2 setMinimum/1 setMaximum/1 setSuffix/1

QDoubleSpinBox(QAbstractSpinBox)
  properties minimum maximum singleStep value decimals cleanText prefix suffix
  signals    valueChanged(double)
  methods    setValue/1 setRange/2 setDecimals/1 setSuffix/1

QGroupBox(QWidget)
  properties title checkable checked flat alignment
  signals    toggled(bool) clicked(bool) clicked()

QAbstractScrollArea(QFrame)
  properties verticalScrollBarPolicy horizontalScrollBarPolicy sizeAdjustPolicy
  methods    verticalScrollBar/0 horizontalScrollBar/0 viewport/0

QScrollArea(QAbstractScrollArea)
  properties widgetResizable alignment
  methods    setWidget/1 widget/0 setWidgetResizable/1 ensureWidgetVisible/1-3

QPlainTextEdit(QAbstractScrollArea)
  properties plainText readOnly lineWrapMode undoRedoEnabled placeholderText blockCount maximumBlockCount centerOnScroll
  signals    textChanged() selectionChanged() cursorPositionChanged() copyAvailable(bool)
  methods    setPlainText/1 toPlainText/0 appendPlainText/1 insertPlainText/1 clear/0 selectAll/0 setReadOnly/1
  methods    ensureCursorVisible/0
  methods    setLineWrapMode/1 setPlaceholderText/1

QTextEdit(QAbstractScrollArea)
  properties plainText html readOnly placeholderText lineWrapMode
  signals    textChanged()
  methods    setPlainText/1 toPlainText/0 setHtml/1 append/1 clear/0 setText/1

QAbstractItemView(QAbstractScrollArea)
  properties alternatingRowColors selectionMode selectionBehavior editTriggers tabKeyNavigation iconSize textElideMode
  properties verticalScrollMode horizontalScrollMode autoScroll dragEnabled dragDropMode
  signals    pressed(QModelIndex) clicked(QModelIndex) doubleClicked(QModelIndex) activated(QModelIndex)
  signals    entered(QModelIndex)
  signals    viewportEntered()
  methods    clearSelection/0 selectAll/0 scrollToTop/0 scrollToBottom/0 setSelectionMode/1 setSelectionBehavior/1
  methods    setEditTriggers/1
  methods    setAlternatingRowColors/1 selectionModel/0 currentIndex/0 model/0 setItemDelegate/1

QTableView(QAbstractItemView)
  properties showGrid sortingEnabled wordWrap gridStyle cornerButtonEnabled
  methods    selectRow/1 selectColumn/1 horizontalHeader/0 verticalHeader/0 resizeColumnsToContents/0
  methods    resizeColumnToContents/1
  methods    resizeRowsToContents/0 setColumnHidden/2 isColumnHidden/1 setRowHidden/2 isRowHidden/1 setColumnWidth/2
  methods    columnWidth/1
  methods    setRowHeight/2 rowHeight/1 sortByColumn/2 setSortingEnabled/1 hideColumn/1 showColumn/1 hideRow/1 showRow/1
  methods    rowAt/1
  methods    columnAt/1 setShowGrid/1 setWordWrap/1 rowViewportPosition/1

QTableWidget(QTableView)
  properties rowCount columnCount
  signals    itemSelectionChanged() itemChanged(QTableWidgetItem*) itemClicked(QTableWidgetItem*)
  signals    itemDoubleClicked(QTableWidgetItem*)
  signals    itemPressed(QTableWidgetItem*) itemActivated(QTableWidgetItem*) itemEntered(QTableWidgetItem*)
  signals    currentItemChanged(QTableWidgetItem*,QTableWidgetItem*) cellClicked(int,int) cellDoubleClicked(int,int)
  signals    cellChanged(int,int)
  signals    cellPressed(int,int) cellActivated(int,int) cellEntered(int,int) currentCellChanged(int,int,int,int)
  methods    setItem/3 item/2 takeItem/2 setRowCount/1 setColumnCount/1 insertRow/1 removeRow/1 currentRow/0
  methods    currentColumn/0 currentItem/0
  methods    setCurrentCell/2-3 setCurrentItem/1-2 selectedItems/0 setHorizontalHeaderLabels/1 setVerticalHeaderLabels/1
  methods    clear/0
  methods    clearContents/0 row/1 column/1 scrollToItem/1-2 findItems/2 sortItems/1-2 setCellWidget/3 cellWidget/2
  methods    itemAt/1-2
  methods    horizontalHeaderItem/1 setHorizontalHeaderItem/2 visualItemRect/1

QHeaderView(QAbstractItemView)
  properties stretchLastSection defaultSectionSize minimumSectionSize maximumSectionSize highlightSections
  properties cascadingSectionResizes defaultAlignment firstSectionMovable showSortIndicator
  signals    sectionClicked(int) sectionPressed(int) sectionDoubleClicked(int) sectionResized(int,int,int)
  signals    sectionMoved(int,int,int)
  signals    sortIndicatorChanged(int,Qt::SortOrder) geometriesChanged() sectionEntered(int)
  methods    setSectionResizeMode/1-2 sectionResizeMode/1 setStretchLastSection/1 setSortIndicator/2
  methods    sortIndicatorSection/0
  methods    sortIndicatorOrder/0 setSortIndicatorShown/1 setSectionsClickable/1 resizeSection/2 sectionSize/1
  methods    hideSection/1 showSection/1
  methods    setVisible/1 setMinimumSectionSize/1 setDefaultSectionSize/1 isSortIndicatorShown/0 resizeSections/1
  methods    count/0 length/0
  methods    saveState/0 restoreState/1

QLayout(QObject)
  properties spacing sizeConstraint
  methods    addWidget/1 removeWidget/1 count/0 itemAt/1 setContentsMargins/1-4 setSpacing/1 invalidate/0 activate/0

QBoxLayout(QLayout)
  methods    addWidget/1-3 addLayout/1-2 addStretch/0-1 addSpacing/1 insertWidget/2-4 setStretch/2

QVBoxLayout(QBoxLayout)
QHBoxLayout(QBoxLayout)

QFormLayout(QLayout)
  methods    addRow/1-2 rowCount/0 labelForField/1

QGridLayout(QLayout)
  methods    addWidget/1-6 addLayout/3-6 setColumnStretch/2 setRowStretch/2

QStatusBar(QWidget)
  methods    showMessage/1-2 clearMessage/0 currentMessage/0

QTableWidgetItem
  methods    text/0 setText/1 data/1 setData/2 flags/0 setFlags/1 toolTip/0 setToolTip/1 row/0 column/0
  methods    setTextAlignment/1 textAlignment/0
  methods    setForeground/1 setBackground/1 setFont/1 font/0 setIcon/1 checkState/0 setCheckState/1 isSelected/0
  methods    setSelected/1
  methods    tableWidget/0 foreground/0 background/0 setStatusTip/1 setWhatsThis/1 setSizeHint/1

QColor
  methods    name/0-1 red/0 green/0 blue/0 alpha/0 isValid/0
QBrush
  methods    color/0
QFont
  methods    setBold/1 bold/0 setItalic/1 setPointSize/1 pointSize/0 setStrikeOut/1
QFontMetrics
  methods    height/0 horizontalAdvance/1 lineSpacing/0
QIcon
  methods    isNull/0
QPixmap
  methods    isNull/0 save/1-3 width/0 height/0 scaled/2-4
QKeySequence
  methods    toString/0-1 isEmpty/0
QSize
  methods    width/0 height/0 setWidth/1 setHeight/1
QPoint
  methods    x/0 y/0
QRect
  methods    x/0 y/0 width/0 height/0 left/0 top/0 right/0 bottom/0 contains/1-2
QSizePolicy
  methods    setHorizontalPolicy/1 setVerticalPolicy/1 setHorizontalStretch/1 setVerticalStretch/1
QCursor
  methods    shape/0
QModelIndex
  methods    row/0 column/0 isValid/0
QThread
  statics    currentThread/0
QApplication
  statics    overrideCursor/0 setOverrideCursor/1 restoreOverrideCursor/0 processEvents/0-2 focusWidget/0

ctkMessageBox(QMessageBox)
  properties dontShowAgain dontShowAgainSettingsKey dontShowAgainVisible
ctkCollapsibleButton(QAbstractButton)
  properties collapsed collapsedHeight flat contentsFrameShape contentsFrameShadow contentsLineWidth
  properties contentsMidLineWidth
  properties buttonTextAlignment indicatorAlignment
  signals    contentsCollapsed(bool)
  methods    setCollapsed/1
ctkPathLineEdit(QWidget)
  properties label filters currentPath options settingKey showBrowseButton showHistoryButton sizeAdjustPolicy
  properties minimumContentsLength
  properties nameFilters
  signals    validInputChanged(bool) currentPathChanged(QString)
  methods    comboBox/0 setCurrentPath/1 browse/0 retrieveHistory/0 addCurrentPathToHistory/0
ctkSliderWidget(QWidget)
  properties decimals singleStep pageStep minimum maximum value prefix suffix tickInterval tickPosition
  properties synchronizeSiblings
  properties spinBoxAlignment tracking spinBoxVisible popupSlider invertedAppearance invertedControls
  signals    valueChanged(double) valueIsChanging(double) decimalsChanged(int)
  methods    setValue/1 reset/0
ctkComboBox(QComboBox)
ctkCheckBox(QCheckBox)
ctkCheckablePushButton(QPushButton)
ctkDoubleSlider(QWidget)
ctkDoubleSpinBox(QWidget)
ctkRangeWidget(QWidget)
ctkDoubleRangeSlider(QWidget)
ctkDirectoryButton(QWidget)
ctkColorPickerButton(QPushButton)

qMRMLWidget(QWidget)
  signals    mrmlSceneChanged(vtkMRMLScene*)
  methods    setMRMLScene/1 mrmlScene/0
qMRMLNodeComboBox(QWidget)
  properties currentNodeID currentNodeId nodeTypes showHidden showChildNodeTypes hideChildNodeTypes baseName noneEnabled
  properties addEnabled
  properties removeEnabled editEnabled renameEnabled interactionNodeSingletonTag selectNodeUponCreation noneDisplay
  properties sizeAdjustPolicy
  signals    currentNodeChanged(vtkMRMLNode*) currentNodeChanged(bool) currentNodeIDChanged(QString)
  signals    nodeActivated(vtkMRMLNode*)
  signals    nodeAdded(vtkMRMLNode*) nodeAddedByUser(vtkMRMLNode*) nodeAboutToBeRemoved(vtkMRMLNode*)
  signals    nodeAboutToBeEdited(vtkMRMLNode*)
  methods    setMRMLScene/1 mrmlScene/0 currentNode/0 setCurrentNode/1 setCurrentNodeID/1 nodeCount/0
qMRMLSliderWidget(ctkSliderWidget)
qMRMLSpinBox(QWidget)
qMRMLRangeWidget(ctkRangeWidget)
qSlicerMainWindow(QMainWindow)
qSlicerModuleManager(QObject)
  signals    moduleAboutToBeUnloaded(QString) moduleLoaded(QString)
qSlicerApplication(QObject)
  properties applicationName slicerHome temporaryPath
  signals    startupCompleted()
  methods    testingEnabled/0 processEvents/0-2 clipboard/0 setOverrideCursor/1 restoreOverrideCursor/0 translate/2
  methods    topLevelWidgets/0
  methods    settings/0 userSettings/0 moduleManager/0 mrmlScene/0 thread/0 focusWidget/0 pauseRender/0 resumeRender/0
"""

MODULE_PARENT = (
    *(
        "title",
        "categories",
        "dependencies",
        "contributors",
        "helpText",
        "acknowledgementText",
        "icon",
        "path",
        "hidden",
        "name",
    ),
    *("associatedNodeTypes", "index", "widgetRepresentationCreationEnabled"),
)
"""What may be set on the parent of a `ScriptedLoadableModule`, a qSlicerScriptedLoadableModule."""

SUBMODULES_THAT_SLICER_IMPORTS = ("util",)
"""Those of `slicer` that a module finds without importing them (slicer/__init__.py and slicerqt.py)."""

FUNCTIONS = {
    "Base/Python/slicer/util.py": (
        "loadUI(path)",
        "childWidgetVariables(widget)",
        "settingsValue(key, default, converter=lambda v: v, settings=None)",
        "toBool(value)",
        "getModuleWidget(module)",
        "getNodesByClass(className, scene=None)",
        "modulePath(moduleName)",
        "mainWindow()",
        "infoDisplay(text, windowTitle=None, parent=None, standardButtons=None, **kwargs)",
        "warningDisplay(text, windowTitle=None, parent=None, standardButtons=None, **kwargs)",
        "errorDisplay(text, windowTitle=None, parent=None, standardButtons=None, **kwargs)",
        "confirmOkCancelDisplay(text, windowTitle=None, parent=None, **kwargs)",
        "confirmYesNoDisplay(text, windowTitle=None, parent=None, **kwargs)",
        "messageBox(text, parent=None, **kwargs)",
        "createProgressDialog(parent=None, value=0, maximum=100, labelText='', windowTitle='Processing...', **kwargs)",
        "tryWithErrorDisplay(message=None, show=True, waitCursor=False)",
        "updateVolumeFromArray(volumeNode, narray)",
        "vtkMatrixFromArray(narray)",
        "VTKObservationMixin.addObserver(self, obj, event, method, group='none', priority=0.0)",
        "VTKObservationMixin.removeObserver(self, obj, event, method)",
        "VTKObservationMixin.hasObserver(self, obj, event, method)",
        "VTKObservationMixin.removeObservers(self, method=None)",
    ),
    "Base/Python/slicer/packaging.py": (
        "load_requirements(path)",
        "pip_check(req, _seen=None)",
        "pip_ensure(requirements, constraints=None, skip_packages=None, prompt_install=True, prompt_restart=True, "
        "requester=None, skip_in_testing=True, show_progress=True)",
    ),
    "Base/Python/slicer/i18n.py": ("tr(text)", "translate(context, text)"),
    "Base/Python/slicer/ScriptedLoadableModule.py": (
        "ScriptedLoadableModule.__init__(self, parent)",
        "ScriptedLoadableModule.resourcePath(self, filename)",
        "ScriptedLoadableModuleWidget.__init__(self, parent=None)",
        "ScriptedLoadableModuleWidget.setup(self)",
        "ScriptedLoadableModuleWidget.cleanup(self)",
        "ScriptedLoadableModuleWidget.resourcePath(self, filename)",
        "ScriptedLoadableModuleLogic.__init__(self, parent=None)",
        "ScriptedLoadableModuleLogic.getParameterNode(self)",
        "ScriptedLoadableModuleTest.setUp(self)",
        "ScriptedLoadableModuleTest.tearDown(self)",
        "ScriptedLoadableModuleTest.runTest(self)",
    ),
    "Base/Python/slicer/parameterNodeWrapper/wrapper.py": ("parameterNodeWrapper(classtype=None)",),
    "Base/Python/slicer/parameterNodeWrapper/validators.py": (
        "WithinRange.__init__(self, minimum, maximum)",
        "Choice.__init__(self, choices)",
    ),
    "Modules/Scripted/SampleData/SampleData.py": (
        "SampleDataLogic.registerCustomSampleDataCategory(category, title)",
        "SampleDataLogic.registerCustomSampleDataSource(category='Custom', sampleName=None, uris=None, "
        "fileNames=None, nodeNames=None, "
        "customDownloader=None, thumbnailFileName=None, loadFileTypes=None, loadFiles=None, loadFileProperties={}, "
        "checksums=None, loadFileType=None)",
    ),
}
"""The functions that a module may call, by the file of Slicer that defines them; annotations are left out."""


@dataclass(frozen=True)
class Class:
    """What there is of a class, that of its bases included: `methods` and `statics` by name with least and most
    arguments."""

    name: str
    base: str
    properties: frozenset[str]
    signals: tuple[str, ...]
    methods: dict[str, tuple[int, int]]
    statics: dict[str, tuple[int, int]]


def _counts(words: list[str]) -> dict[str, tuple[int, int]]:
    found = re.findall(r"(\w+)/(\d+)(?:-(\d+))?", " ".join(words))
    return {name: (int(least), int(most or least)) for name, least, most in found}


def classes() -> dict[str, Class]:
    """The table, by the names of classes; bases come before what derives from them."""
    table: dict[str, Class] = {}
    for block in re.split(r"\n(?=\S)", CLASSES.strip()):
        head, *lines = block.split("\n")
        name, base = re.fullmatch(r"(\w+)(?:\((\w+)\))?\s*", head).groups("")
        words: dict[str, list[str]] = {"properties": [], "signals": [], "methods": [], "statics": []}
        for kind, *listed in (line.split() for line in lines if line.strip()):
            words[kind] += listed
        above = table.get(base) or Class("", "", frozenset(), (), {}, {})
        table[name] = Class(
            name,
            base,
            above.properties.union(words["properties"]),
            (*words["signals"], *above.signals),
            above.methods | _counts(words["methods"]),
            above.statics | _counts(words["statics"]),
        )
    return table
